"""What a whole model computes: who may influence whom, what each choice of the configuration does, and the dtypes."""

import models_under_test as mut
import numpy as np
import pytest

from tinyllama.models import Llama

KINDS = {
    "rope": {}, "learned": {"positions": "learned"}, "sinusoidal": {"positions": "sinusoidal"},
    "none": {"positions": "none"}, "window": {"sliding_window": 3}, "MQA": {"num_key_value_heads": 1},
    "MHA": {"num_key_value_heads": 4}, "GPT-2": {"norm": "layernorm", "mlp": "gelu", "positions": "learned",
                                                 "attention_bias": True, "mlp_bias": True},
    "tied and shared": {"tie_word_embeddings": True, "num_hidden_layers": 3, "num_unique_layers": 2},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def close(received, expected, tolerance=1e-12):
    np.testing.assert_allclose(received, expected, rtol=0, atol=tolerance)


# ---- the shape of the result, and who influences whom

@every_kind
def test_logits_have_a_score_for_every_token_at_every_place(kind):
    logits = mut.tiny_model(**KINDS[kind]).logits(mut.IDS)
    assert logits.shape == (3, 7, 13)
    assert np.isfinite(logits).all()
    assert np.std(logits) > 0.1


@every_kind
def test_a_batch_equals_its_rows_one_by_one(kind):
    model = mut.tiny_model(**KINDS[kind])
    together = model.logits(mut.IDS)
    for row in range(3):
        close(model.logits(mut.IDS[row:row + 1])[0], together[row])


@every_kind
def test_the_future_does_not_matter(kind):
    model = mut.tiny_model(**KINDS[kind])
    before = model.logits(mut.IDS)
    for t in range(1, 7):
        changed = mut.IDS.copy()
        changed[:, t] = (changed[:, t] + 5) % 13
        after = model.logits(changed)
        close(after[:, :t], before[:, :t])
        assert np.abs(after[:, t] - before[:, t]).max() > 1e-3


@every_kind
def test_a_beginning_has_the_logits_it_has_in_the_whole(kind):
    model = mut.tiny_model(**KINDS[kind])
    whole = model.logits(mut.IDS)
    for length in range(1, 7):
        close(model.logits(mut.IDS[:, :length]), whole[:, :length])


def test_the_past_matters_as_far_as_the_window_reaches():
    changed = mut.IDS.copy()
    changed[:, 0] = (changed[:, 0] + 5) % 13
    for window, layers in ((2, 1), (3, 1), (2, 2), (3, 2)):
        model = mut.tiny_model(sliding_window=window, num_hidden_layers=layers)
        difference = np.abs(model.logits(changed) - model.logits(mut.IDS)).max(axis=(0, 2))     # (T,)
        reach = 1 + layers * (window - 1)       # each layer looks window - 1 tokens further back
        assert np.all(difference[:reach] > 1e-6)
        assert np.all(difference[reach:] < 1e-12)


def test_a_window_as_long_as_the_text_is_no_window():
    close(mut.tiny_model(sliding_window=7).logits(mut.IDS), mut.tiny_model().logits(mut.IDS))


# ---- documents

def separately(model, row, documents):
    """The logits of each document of a row computed alone, put back in their places."""
    logits = np.empty((mut.IDS.shape[1], 13))
    for document in np.unique(documents):
        places = np.flatnonzero(documents == document)
        logits[places] = model.logits(mut.IDS[row:row + 1, places])[0]
    return logits


@pytest.mark.parametrize("kind", ["none", "rope", "window", "MQA", "tied and shared"])
def test_packed_documents_equal_separate_ones(kind):
    # With rotation too: only the distance of two tokens matters, not where in the row their document begins.
    model = mut.tiny_model(**KINDS[kind])
    packed = model.logits(mut.IDS, documents=mut.DOCUMENTS)
    for row in range(3):
        close(packed[row], separately(model, row, mut.DOCUMENTS[row]))
    assert np.abs(packed - model.logits(mut.IDS))[:2].max() > 1e-2
    close(packed[2], model.logits(mut.IDS)[2])              # the last row is one document


def test_the_numbers_of_documents_only_need_to_differ():
    model = mut.tiny_model()
    close(model.logits(mut.IDS, documents=mut.DOCUMENTS), model.logits(mut.IDS, documents=-5 * mut.DOCUMENTS + 999))


def test_documents_may_be_interleaved():
    model, documents = mut.tiny_model(positions="none"), np.array([[0, 1, 0, 1, 0, 0, 1]])
    close(model.logits(mut.IDS[:1], documents=documents)[0], separately(model, 0, documents[0]))


def test_loss_and_gradients_respect_documents():
    model = mut.tiny_model()
    by_hand = loss_by_hand(model.logits(mut.IDS, documents=mut.DOCUMENTS), mut.TARGETS)
    assert float(model.loss(mut.IDS, mut.TARGETS, documents=mut.DOCUMENTS)) == pytest.approx(by_hand, abs=1e-12)
    loss, _ = model.loss_and_grads(mut.IDS, mut.TARGETS, documents=mut.DOCUMENTS)
    assert float(loss) == pytest.approx(by_hand, abs=1e-12)
    assert by_hand != pytest.approx(float(model.loss(mut.IDS, mut.TARGETS)), abs=1e-3)


# ---- the loss

def loss_by_hand(logits, targets):
    losses = []
    for z, target in zip(logits.reshape(-1, 13), targets.reshape(-1), strict=True):
        if target != -100:
            losses.append(np.log(np.sum(np.exp(z))) - z[target])
    return np.mean(losses)


@every_kind
def test_the_loss_is_the_mean_surprise_in_nats(kind):
    model = mut.tiny_model(**KINDS[kind])
    expected = loss_by_hand(model.logits(mut.IDS), mut.TARGETS)
    loss, with_grads = model.loss(mut.IDS, mut.TARGETS), model.loss_and_grads(mut.IDS, mut.TARGETS)[0]
    assert np.shape(loss) == np.shape(with_grads) == ()
    assert float(loss) == pytest.approx(expected, abs=1e-12)
    assert float(with_grads) == pytest.approx(expected, abs=1e-12)


def test_a_fresh_model_is_as_surprised_as_a_guess():
    loss = Llama(mut.tiny_config(), dtype="float64").loss(mut.IDS, mut.TARGETS)
    assert float(loss) == pytest.approx(np.log(13), abs=0.05)


# ---- each choice of the configuration

CHOICES = [
    {"num_attention_heads": 8, "head_dim": 2}, {"num_key_value_heads": 4}, {"num_key_value_heads": 1}, {"head_dim": 6},
    {"rms_norm_eps": 0.1}, {"rope_theta": 100.0}, {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    {"rope_scaling": mut.LLAMA3}, {"rope_scaling": mut.LLAMA3 | {"low_freq_factor": 0.3}},
    {"rope_scaling": mut.LLAMA3 | {"high_freq_factor": 1.0}}, {"rope_scaling": mut.LLAMA3 | {"factor": 4.0}},
    {"rope_scaling": mut.LLAMA3 | {"original_max_position_embeddings": 9}}, {"sliding_window": 3},
    {"tie_word_embeddings": True}, {"attention_bias": True}, {"mlp_bias": True}, {"norm": "layernorm"}, {"mlp": "relu"},
    {"mlp": "gelu"}, {"positions": "learned"}, {"positions": "sinusoidal"}, {"positions": "none"},
    {"num_hidden_layers": 1}, {"num_unique_layers": 1}, {"intermediate_size": 9},
]


def test_every_choice_changes_the_logits():
    seen = {"nothing": mut.tiny_model().logits(mut.IDS)}
    for changes in CHOICES:
        logits = mut.tiny_model(**changes).logits(mut.IDS)
        for label, other in seen.items():
            assert np.abs(logits - other).max() > 1e-4, f"{changes} gives the logits of {label}"
        seen[str(changes)] = logits


@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm"])
def test_every_norm_uses_the_configured_eps(norm):
    calls = []
    mut.tiny_model(norm=norm, rms_norm_eps=0.2, backend=mut.spying(calls, f"{norm}_forward")).logits(mut.IDS)
    assert [kwargs["eps"] for _, _, kwargs, _ in calls] == [0.2] * (2 * 2 + 1)


def test_every_choice_that_only_draws_other_weights_changes_them():
    plain = Llama(mut.tiny_config()).parameters
    for changes, name, same in (({"initializer_range": 0.1}, "lm_head.weight", "model.norm.weight"),
                                ({"embedding_initializer_range": 0.1}, "model.embed_tokens.weight", "lm_head.weight")):
        changed = Llama(mut.tiny_config(**changes)).parameters
        np.testing.assert_allclose(changed[name], 5 * plain[name], rtol=1e-5)
        np.testing.assert_array_equal(changed[same], plain[same])


def test_grouped_queries_are_multi_head_attention_with_equal_keys_and_values():
    grouped, full = mut.tiny_model(attention_bias=True), mut.tiny_model(attention_bias=True, num_key_value_heads=4)
    for name, array in grouped.parameters.items():
        if ".k_proj" in name or ".v_proj" in name:
            heads = array.reshape(2, 4, *array.shape[1:])                   # (KV, D, ...)
            array = np.repeat(heads, 2, axis=0).reshape(full.parameters[name].shape)
        full.parameters[name][...] = array
    close(grouped.logits(mut.IDS), full.logits(mut.IDS))


def test_shared_layers_are_layers_with_equal_weights():
    shared = mut.tiny_model(num_hidden_layers=3, num_unique_layers=2)
    full = mut.tiny_model(num_hidden_layers=3)
    for name in full.parameters:
        full.parameters[name][...] = shared.parameters[name.replace("layers.2", "layers.0")]
    close(shared.logits(mut.IDS), full.logits(mut.IDS))
    assert not any("layers.2" in name for name in shared.parameters)


def test_gradients_of_shared_layers_are_the_sums_over_their_uses():
    shared = mut.tiny_model(num_hidden_layers=3, num_unique_layers=2)
    full = mut.tiny_model(num_hidden_layers=3)
    for name in full.parameters:
        full.parameters[name][...] = shared.parameters[name.replace("layers.2", "layers.0")]
    _, sums = shared.loss_and_grads(mut.IDS, mut.TARGETS)
    _, single = full.loss_and_grads(mut.IDS, mut.TARGETS)
    for name, received in sums.items():
        expected = single[name]
        if "layers.0" in name:
            expected = expected + single[name.replace("layers.0", "layers.2")]
        close(received, expected)


def test_a_tied_head_is_a_head_with_the_weights_of_the_embedding():
    tied, untied = mut.tiny_model(tie_word_embeddings=True), mut.tiny_model()
    untied.parameters["lm_head.weight"][...] = tied.parameters["model.embed_tokens.weight"]
    close(tied.logits(mut.IDS), untied.logits(mut.IDS))
    assert np.shares_memory(tied.parameters["lm_head.weight"], tied.parameters["model.embed_tokens.weight"])
    assert "lm_head.weight" not in list(tied.parameters)

    _, sums = tied.loss_and_grads(mut.IDS, mut.TARGETS)
    _, single = untied.loss_and_grads(mut.IDS, mut.TARGETS)
    close(sums["model.embed_tokens.weight"], single["model.embed_tokens.weight"] + single["lm_head.weight"])
    assert sums["lm_head.weight"] is sums["model.embed_tokens.weight"] or \
        np.shares_memory(sums["lm_head.weight"], sums["model.embed_tokens.weight"])


def test_writing_into_a_parameter_changes_the_model():
    model = mut.tiny_model()
    before = model.logits(mut.IDS)
    model.parameters["model.layers.1.self_attn.v_proj.weight"][0, 0] += 1.0
    assert np.abs(model.logits(mut.IDS) - before).max() > 1e-3


# ---- seeds and dtypes

def test_the_same_seed_gives_the_same_weights():
    for dtype in ("float32", "float64"):
        one, same, other = (Llama(mut.tiny_config(), dtype=dtype, seed=seed) for seed in (4, 4, 5))
        np.testing.assert_array_equal(one.parameters.trainable, same.parameters.trainable)
        assert not np.array_equal(one.parameters.trainable, other.parameters.trainable)


def test_without_a_seed_the_weights_wait_to_be_loaded():
    for name, array in Llama(mut.tiny_config(attention_bias=True), seed=None).parameters.items():
        assert np.all(array == (1.0 if name.endswith("norm.weight") else 0.0)), name


def test_both_dtypes_begin_with_the_same_weights():
    single, double = (Llama(mut.tiny_config(), dtype=dtype, seed=4) for dtype in ("float32", "float64"))
    assert single.dtype == np.float32
    for name in single.parameters:
        np.testing.assert_array_equal(single.parameters[name], double.parameters[name].astype(np.float32))


def test_both_dtypes_agree_to_the_precision_of_the_smaller():
    single, double = mut.tiny_model(dtype="float32"), mut.tiny_model()
    np.testing.assert_allclose(single.logits(mut.IDS), double.logits(mut.IDS), atol=1e-4)
    assert not np.array_equal(single.logits(mut.IDS), double.logits(mut.IDS))


def floating_dtypes(value):
    """The floating-point dtypes of all arrays and NumPy numbers inside a value, however deep."""
    if isinstance(value, np.ndarray | np.generic):
        return {value.dtype} if value.dtype.kind == "f" else set()
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return set()
    return set().union(*(floating_dtypes(item) for item in value))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("changes", [
    *KINDS.values(), {"dropout": 0.2}, {"rope_scaling": mut.LLAMA3}, {"positions": "sinusoidal", "mlp": "relu"}],
    ids=str)
def test_everything_is_computed_in_the_dtype_of_the_model(dtype, changes):
    calls = []
    model = mut.tiny_model(backend=mut.spying(calls), dtype=dtype, **changes)
    dropout = (1, 2, 3) if model.config.dropout else None
    loss, grads = model.loss_and_grads(mut.IDS, mut.TARGETS, documents=mut.DOCUMENTS, dropout=dropout)
    results = [loss, dict(grads), model.gradient, model.logits(mut.IDS), model.loss(mut.IDS, mut.TARGETS, divisor=7)]
    list(model.generate([[1, 2, 3], [4]], max_new_tokens=3, top_p=0.9, min_p=0.01, top_k=9))
    assert floating_dtypes(results) == {np.dtype(dtype)}
    assert {name for name, *_ in calls} >= {"embedding_forward", "attention_backward", "sample"}
    for name, args, kwargs, result in calls:
        assert floating_dtypes((args, kwargs, result)) <= {np.dtype(dtype)}, name


def test_a_numpy_number_as_divisor_does_not_change_the_dtype():
    model = mut.tiny_model(dtype="float32")
    for divisor in ((mut.TARGETS != -100).sum(), np.float64(13.0), np.int32(13), np.array(13)):
        assert model.loss(mut.IDS, mut.TARGETS, divisor=divisor).dtype == np.float32
        assert model.loss_and_grads(mut.IDS, mut.TARGETS, divisor=divisor)[0].dtype == np.float32


# ---- inputs of other kinds

@pytest.mark.parametrize("convert", [np.ndarray.tolist, np.int32, np.uint8, np.asfortranarray,
                                     lambda ids: tuple(map(tuple, ids))])
def test_lists_and_integers_of_any_size_are_accepted(convert):
    model = mut.tiny_model()
    np.testing.assert_array_equal(model.logits(convert(mut.IDS)), model.logits(mut.IDS))


def test_inputs_are_not_changed():
    model, ids, targets, documents = mut.tiny_model(), mut.IDS.copy(), mut.TARGETS.copy(), mut.DOCUMENTS.copy()
    model.loss_and_grads(ids, targets, documents=documents)
    np.testing.assert_array_equal(ids, mut.IDS)
    np.testing.assert_array_equal(targets, mut.TARGETS)
    np.testing.assert_array_equal(documents, mut.DOCUMENTS)


def test_the_shortest_text_and_the_longest():
    model = mut.tiny_model()
    assert model.logits([[3]]).shape == (1, 1, 13)
    assert model.logits([[3] * 9]).shape == (1, 9, 13)


def test_with_one_token_queries_and_keys_have_no_gradient():
    # The softmax over a single key is 1 whatever the score is.
    _, grads = mut.tiny_model().loss_and_grads([[3], [5]], [[1], [2]])
    for name, gradient in grads.items():
        if ".q_proj" in name or ".k_proj" in name:
            assert np.abs(gradient).max() < 1e-12, name
        else:
            assert np.abs(gradient).max() > 1e-4, name
