"""Bad input is refused before any work, naming the argument, what was expected and what came."""

import models_under_test as mut
import numpy as np
import pytest

from tinyllama.backends import load_backend
from tinyllama.models import Llama

MODEL = mut.tiny_model()
DROPOUT_MODEL = mut.tiny_model(dropout=0.1)
ALL = {
    "logits": lambda ids: MODEL.logits(ids),
    "loss": lambda ids: MODEL.loss(ids, mut.TARGETS),
    "loss_and_grads": lambda ids: MODEL.loss_and_grads(ids, mut.TARGETS),
}
BOTH = {
    "loss": lambda targets, **settings: MODEL.loss(mut.IDS, targets, **settings),
    "loss_and_grads": lambda targets, **settings: MODEL.loss_and_grads(mut.IDS, targets, **settings),
}


def changed(array, place, value):
    array = array.copy()
    array[place] = value
    return array


@pytest.mark.parametrize("call", ALL.values(), ids=ALL)
@pytest.mark.parametrize("ids, error, message", [
    (changed(mut.IDS, (1, 2), 13), ValueError, "ids: expected tokens from 0 to 12, got 13 at [1, 2]"),
    (changed(mut.IDS, (2, 6), -1), ValueError, "ids: expected tokens from 0 to 12, got -1 at [2, 6]"),
    (changed(mut.IDS, (0, 0), -100), ValueError, "ids: expected tokens from 0 to 12, got -100 at [0, 0]"),
    (mut.IDS.astype(np.float64), TypeError, "ids: expected integers, got float64"),
    (mut.IDS > 3, TypeError, "ids: expected integers, got bool"),
    ([["a", "b"]], TypeError, "ids: expected integers, got <U1"),
    (None, TypeError, "ids: expected integers, got object"),
    (mut.IDS[0], ValueError, "ids: expected the shape (B, T) with at least one token, got (7,)"),
    (mut.IDS[None], ValueError, "ids: expected the shape (B, T) with at least one token, got (1, 3, 7)"),
    (3, ValueError, "ids: expected the shape (B, T) with at least one token, got ()"),
    (mut.IDS[:, :0], ValueError, "ids: expected the shape (B, T) with at least one token, got (3, 0)"),
    (mut.IDS[:0], ValueError, "ids: expected the shape (B, T) with at least one token, got (0, 7)"),
    (np.ones((3, 10), dtype=int), ValueError,
     "ids: expected at most 9 tokens a row (max_position_embeddings), got 10"),
    ([[1, 2, 3], [4, 5]], ValueError, "ids: expected rows of equal length, got rows of different lengths"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_ids(call, ids, error, message):
    with pytest.raises(error) as caught:
        call(ids)
    assert str(caught.value) == message


@pytest.mark.parametrize("ids", [[], [[]], [[], []]])
def test_empty_lists_are_called_empty(ids):
    with pytest.raises((ValueError, TypeError)) as caught:
        MODEL.logits(ids)
    assert "at least one token" in str(caught.value)


@pytest.mark.parametrize("call", BOTH.values(), ids=BOTH)
@pytest.mark.parametrize("targets, error, message", [
    (changed(mut.TARGETS, (1, 2), 13), ValueError, "targets: expected tokens from 0 to 12, got 13 at [1, 2]"),
    (changed(mut.TARGETS, (0, 5), -1), ValueError, "targets: expected tokens from 0 to 12, got -1 at [0, 5]"),
    (mut.TARGETS.astype(np.float32), TypeError, "targets: expected integers, got float32"),
    (mut.TARGETS[:, 1:], ValueError, "targets: expected the shape of ids, (3, 7), got (3, 6)"),
    (mut.TARGETS[0], ValueError, "targets: expected the shape of ids, (3, 7), got (7,)"),
    (mut.TARGETS[:1], ValueError, "targets: expected the shape of ids, (3, 7), got (1, 7)"),
    ([[1], [2, 3]], ValueError, "targets: expected rows of equal length, got rows of different lengths"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_targets(call, targets, error, message):
    with pytest.raises(error) as caught:
        call(targets)
    assert str(caught.value) == message


@pytest.mark.parametrize("call", BOTH.values(), ids=BOTH)
@pytest.mark.parametrize("divisor", [0, -3, 0.0, float("nan")])
def test_divisor(call, divisor):
    with pytest.raises(ValueError) as caught:
        call(mut.TARGETS, divisor=divisor)
    assert str(caught.value) == f"divisor: expected a number above 0, got {divisor}"


@pytest.mark.parametrize("call", [*BOTH.values(), lambda _, **settings: MODEL.logits(mut.IDS, **settings)],
                         ids=[*BOTH, "logits"])
@pytest.mark.parametrize("documents, error, message", [
    (mut.DOCUMENTS[:, 1:], ValueError, "documents: expected the shape of ids, (3, 7), got (3, 6)"),
    (mut.DOCUMENTS / 2, TypeError, "documents: expected integers, got float64"),
])
def test_documents(call, documents, error, message):
    with pytest.raises(error) as caught:
        call(mut.TARGETS, documents=documents)
    assert str(caught.value) == message


def test_a_missing_dropout_key():
    message = r"dropout: expected \(seed, step, micro-step\), because config.dropout is 0.1, got None"
    with pytest.raises(ValueError, match=message):
        DROPOUT_MODEL.loss_and_grads(mut.IDS, mut.TARGETS)
    DROPOUT_MODEL.loss(mut.IDS, mut.TARGETS)            # evaluation needs none


def test_refused_input_leaves_the_gradients_alone():
    model = mut.tiny_model()
    model.loss_and_grads(mut.IDS, mut.TARGETS)
    before = model.gradient.copy()
    with pytest.raises(ValueError):
        model.loss_and_grads(mut.IDS + 5, mut.TARGETS)
    np.testing.assert_array_equal(model.gradient, before)


@pytest.mark.parametrize("settings, message", [
    ({"dtype": "float16"}, "dtype: expected 'float32' or 'float64', got 'float16'"),
    ({"dtype": "int32"}, "dtype: expected 'float32' or 'float64', got 'int32'"),
    ({"workers": 0}, "workers: expected at least 1, or None, got 0"),
    ({"workers": -2}, "workers: expected at least 1, or None, got -2"),
    ({"backend": "torch"}, r"backend: expected one of 'numpy'.*, got 'torch'"),
    ({"frozen": ("model.layer.*",)}, r"frozen: no parameter is named like 'model\.layer\.\*'"),
    ({"frozen": ("*.q_proj.weight",)}, r"frozen: expected all or none of model\.layers\.0\.self_attn\.q_proj\.weight"),
])
def test_settings_of_the_model(settings, message):
    with pytest.raises(ValueError, match=message):
        Llama(mut.tiny_config(), **settings)


@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype("float32")])
def test_a_dtype_may_be_said_in_any_way_that_numpy_knows(dtype):
    assert Llama(mut.tiny_config(), dtype=dtype).dtype == np.float32


def test_a_backend_may_be_a_name_or_an_object():
    assert Llama(mut.tiny_config(), backend="numpy").backend is load_backend("numpy")
    mine = load_backend("numpy").with_ops(rmsnorm_forward=load_backend("numpy").rmsnorm_forward)
    assert Llama(mut.tiny_config(), backend=mine).backend is mine


@pytest.mark.parametrize("settings, message", [
    ({"temperature": "1"}, "temperature: expected a number, got '1'"),
    ({"temperature": None}, "temperature: expected a number, got None"),
    ({"top_k": 1.5}, "top_k: expected an integer, got 1.5"),
    ({"seed": 1.5}, "seed: expected an integer, got 1.5"),
])
def test_settings_of_generate_of_another_kind(settings, message):
    with pytest.raises(TypeError, match=message):
        mut.tiny_model().generate([1, 2], **settings)


@pytest.mark.parametrize("prompt", [5, [[1, 2], 3]])
def test_prompts_that_are_no_sequences(prompt):
    with pytest.raises(TypeError, match="prompt_ids: expected a sequence of integers, or a list of such sequences"):
        mut.tiny_model().generate(prompt)


@pytest.mark.parametrize("dropout", [True, (0, 3), [0, 1, 2]])
def test_a_dropout_key_has_three_parts(dropout):
    with pytest.raises(ValueError, match=r"dropout: expected \(seed, step, micro-step\), got"):
        mut.tiny_model(dropout=0.1).loss_and_grads(mut.IDS, mut.TARGETS, dropout=dropout)


def test_patterns_of_frozen_are_a_list():
    with pytest.raises(TypeError, match="frozen: expected a list of patterns, got the string 'model"):
        Llama(mut.tiny_config(), frozen="model.*")


@pytest.mark.parametrize("seed", [-1])
def test_a_seed_is_not_negative(seed):
    with pytest.raises(ValueError, match="seed: expected at least 0, or None, got -1"):
        Llama(mut.tiny_config(), seed=seed)
