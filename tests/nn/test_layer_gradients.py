"""Every layer: are its gradients the derivatives, does backward add, skip what is frozen, and keep no state?"""

from unittest import mock

import models_under_test as mut
import numpy as np
import pytest

from tinyllama import gradients
from tinyllama.backends import load_backend
from tinyllama.backends.threads import run_in_threads
from tinyllama.gradients import GradientError
from tinyllama.nn import (
    MLP,
    Attention,
    Block,
    Context,
    Dropout,
    Embedding,
    LayerNorm,
    LearnedPositions,
    Linear,
    RMSNorm,
    RotaryTable,
    SinusoidalPositions,
    SwiGLU,
)

BATCH, LENGTH, HIDDEN, HEAD_DIM = 2, 5, 8, 4
X = np.random.default_rng(20).normal(size=(BATCH, LENGTH, HIDDEN))
IDS = np.array([[3, 0, 3, 6, 3], [1, 3, 0, 1, 5]])                  # tokens repeat; 2 and 4 never occur
POSITIONS = np.array([[0, 1, 2, 3, 4], [2, 3, 4, 5, 6]])
DOCUMENTS = np.array([[0, 0, 0, 1, 1], [0, 1, 1, 1, 2]])


def rotation():
    table = RotaryTable(LENGTH, HEAD_DIM, theta=100.0, scaling=None, backend=load_backend("numpy"), dtype="float64")
    cos, sin = table.at(slice(0, LENGTH))
    return Context(cos=cos, sin=sin)


def attention(kind=Attention, **changes):
    settings = {"heads": 6, "key_value_heads": 3, "head_dim": HEAD_DIM}
    return kind("attention", HIDDEN, **settings | changes)


def block(kind=Block, *, mlp=None, norm=RMSNorm, rate=0.0, **changes):
    return kind(attention_norm=norm("first_norm", HIDDEN), attention=attention(**changes),
                attention_dropout=Dropout(rate, "attention"), mlp_norm=norm("second_norm", HIDDEN),
                mlp=mlp or SwiGLU("mlp", HIDDEN, 7), mlp_dropout=Dropout(rate, "mlp"))


PARTS = {"first": 4, "second": 2, "third": 3}
TRAINING = Context(dropout=(7, 2, 1), layer=3, first_row=4)

# label: (a function that makes the layer, what forward takes)
LAYERS = {
    "linear": (lambda: Linear("linear", HIDDEN, 9), (X,)),
    "linear with a bias": (lambda: Linear("linear", HIDDEN, 9, bias=True), (X,)),
    "linear in parts": (lambda: Linear("linear", HIDDEN, 9, parts=PARTS), (X,)),
    "linear in parts with biases": (lambda: Linear("linear", HIDDEN, 9, bias=True, parts=PARTS), (X,)),
    "embedding": (lambda: Embedding("embedding", 7, HIDDEN), (IDS,)),
    "rmsnorm": (lambda: RMSNorm("norm", HIDDEN), (X,)),
    "rmsnorm, a large eps": (lambda: RMSNorm("norm", HIDDEN, eps=0.5), (X,)),
    "layernorm": (lambda: LayerNorm("norm", HIDDEN), (X + 0.7,)),
    "layernorm, a large eps": (lambda: LayerNorm("norm", HIDDEN, eps=0.5), (X + 0.7,)),
    "swiglu": (lambda: SwiGLU("mlp", HIDDEN, 7), (X,)),
    "swiglu with biases": (lambda: SwiGLU("mlp", HIDDEN, 7, bias=True), (X,)),
    "relu": (lambda: MLP("mlp", HIDDEN, 7, activation="relu"), (X,)),
    "relu with biases": (lambda: MLP("mlp", HIDDEN, 7, activation="relu", bias=True), (X,)),
    "gelu": (lambda: MLP("mlp", HIDDEN, 7, activation="gelu"), (X,)),
    "gelu with biases": (lambda: MLP("mlp", HIDDEN, 7, activation="gelu", bias=True), (X,)),
    "multi-head": (lambda: attention(key_value_heads=6), (X, rotation())),
    "grouped-query": (attention, (X, rotation())),
    "multi-query": (lambda: attention(key_value_heads=1), (X, rotation())),
    "attention, no rotation": (attention, (X, Context())),
    "attention, a window": (lambda: attention(window=2), (X, rotation())),
    "attention, documents": (attention, (X, rotation()._replace(documents=DOCUMENTS))),
    "attention, norms of q and k": (lambda: attention(qk_norm=True, norm_eps=0.3, window=3), (X, rotation())),
    "attention, norms and biases but none of o": (lambda: attention(qk_norm=True, bias=True, output_bias=False),
                                                  (X, rotation())),
    "attention with a bias of o alone": (lambda: attention(output_bias=True), (X, rotation())),
    "attention with biases": (lambda: attention(bias=True), (X, rotation())),
    "attention with biases, no rotation": (lambda: attention(bias=True), (X, Context())),
    "attention, one query head": (lambda: attention(heads=1, key_value_heads=1), (X, rotation())),
    "block of a LLaMA": (block, (X, rotation())),
    "block of a GPT-2": (lambda: block(norm=LayerNorm, mlp=MLP("mlp", HIDDEN, 7, activation="gelu", bias=True),
                                       key_value_heads=6), (X, Context())),
    "block with dropout": (lambda: block(rate=0.4), (X, rotation()._replace(dropout=(7, 2, 1)))),
    "dropout": (lambda: Dropout(0.4, "mlp"), (X, TRAINING)),
    "dropout, switched off": (lambda: Dropout(0.4, "mlp"), (X, Context())),
    "learned positions": (lambda: LearnedPositions("positions", 8, HIDDEN), (X, POSITIONS)),
    "sinusoidal positions": (lambda: SinusoidalPositions(8, HIDDEN), (X, POSITIONS)),
}
# The softmax over the keys does not change when the same number is added to all scores of a query, and that is what a
# key bias does as long as it is not rotated.
ZERO_BY_THEORY = {"attention with biases, no rotation": ("attention.k_proj.bias",)}

every_layer = pytest.mark.parametrize("label", LAYERS)
with_parameters = pytest.mark.parametrize("label", [label for label, (make, _) in LAYERS.items()
                                                    if make().declarations()])
from_vectors = pytest.mark.parametrize("label", [label for label, (_, (x, *_)) in LAYERS.items()
                                                 if x.shape == X.shape and not label.startswith("linear")])


@every_layer
def test_gradients_are_the_derivatives(label, monkeypatch):
    make, inputs = LAYERS[label]
    if isinstance(make(), Attention | Block):       # their parts have been checked element by element
        monkeypatch.setattr(gradients, "LARGEST_JACOBIAN", 0)
    zero = ZERO_BY_THEORY.get(label, ())
    report = mut.check_layer(make(), *inputs, zero=zero)
    parameters = [name for d in make().declarations() for name in ([part for part, _ in d.parts] or [d.name])]
    checked = [row.argument for row in report.rows if row.argument != "x"]
    assert checked == [name.replace(".", "_") for name in parameters if name not in zero]
    assert (report.rows[0].argument == "x") == (inputs[0].dtype.kind == "f")
    assert all(row.norm > 0 for row in report.rows)


@pytest.fixture
def only_directions(monkeypatch):
    """One random direction for each argument, which any mistake shows in, and no Jacobian, which takes far longer."""
    monkeypatch.setattr(gradients, "LARGEST_JACOBIAN", 0)


@from_vectors
def test_gradients_where_the_same_layer_runs_twice(label, only_directions):
    make, inputs = LAYERS[label]
    mut.check_layer(mut.Twice(make()), *inputs, zero=ZERO_BY_THEORY.get(label, ()))


@with_parameters
def test_backward_adds_to_the_gradients_it_is_given(label):
    make, inputs = LAYERS[label]
    mut.check_adds(make(), *inputs)


@with_parameters
def test_frozen_parameters_get_no_gradient_and_none_is_computed(label):
    make, inputs = LAYERS[label]
    calls, layer, trained = [], make(), make()
    mut.bind(trained)
    frozen = mut.bind(layer, frozen=("*",), backend=mut.spying(calls))
    before = mut.copies(frozen)
    y, cache = layer.forward(*inputs)
    dy = np.random.default_rng(1).normal(size=y.shape)
    buffer, grads = frozen.new_gradients()
    dx = layer.backward(dy, cache, grads)

    assert len(grads) == buffer.size == 0
    for name, array in before.items():
        np.testing.assert_array_equal(frozen[name], array)
    for name, args, kwargs, _ in calls:
        assert name != "embedding_backward"                         # ids have no gradient: nothing would be left to do
        if name in ("linear_backward", "rmsnorm_backward", "layernorm_backward"):
            needs = args[2] if len(args) > 2 else kwargs["needs"]
            assert needs[0] and not any(needs[1:]), name
    # What flows on to the layers below is the same as if nothing were frozen.
    _, full_cache = trained.forward(*inputs)
    _, full_grads = trained.parameters.new_gradients()
    expected = trained.backward(dy, full_cache, full_grads)
    if expected is not None:
        np.testing.assert_array_equal(dx, expected)


def test_only_the_frozen_part_of_a_layer_is_skipped():
    calls, layer = [], LAYERS["swiglu with biases"][0]()
    parameters = mut.bind(layer, frozen=("mlp.down_proj.weight", "mlp.gate_proj.bias", "mlp.up_proj.bias"),
                          backend=mut.spying(calls, "linear_backward"))
    y, cache = layer.forward(X)
    _, grads = parameters.new_gradients()
    layer.backward(np.ones_like(y), cache, grads)
    needs = [tuple(map(bool, args[2])) for _, args, _, _ in calls]
    assert needs == [(True, False, True), (True, True, False)]      # down, then gate and up: backward runs upwards
    assert list(grads) == ["mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.bias"]
    assert all(np.any(grads[name]) for name in grads)


def other_inputs(label):
    x, *extra = LAYERS[label][1]
    if x.dtype.kind == "f":
        return (2 * x[::-1] + 1, *extra)
    return (x[::-1, ::-1], *extra)


@every_layer
def test_a_layer_keeps_nothing_between_calls(label):
    make, inputs = LAYERS[label]
    layer = make()
    parameters = mut.bind(layer)
    y, cache = layer.forward(*inputs)
    dy = np.random.default_rng(1).normal(size=y.shape)
    _, expected = parameters.new_gradients()
    expected_dx = layer.backward(dy, cache, expected)

    attributes = dict(vars(layer))
    y_again, cache = layer.forward(*inputs)
    layer.forward(*other_inputs(label))                             # another pass before this one's backward
    _, received = parameters.new_gradients()
    dx = layer.backward(dy, cache, received)
    np.testing.assert_array_equal(y_again, y)
    np.testing.assert_array_equal(dx, expected_dx)
    mut.assert_same_gradients(received, expected, tolerance=0)
    assert vars(layer) == attributes


@every_layer
def test_inputs_are_not_changed(label):
    make, inputs = LAYERS[label]
    layer = make()
    parameters = mut.bind(layer)
    weights = mut.copies(parameters)
    kept = inputs[0].copy()
    y, cache = layer.forward(*inputs)
    dy = np.random.default_rng(1).normal(size=y.shape)
    kept_dy = dy.copy()
    layer.backward(dy, cache, parameters.new_gradients()[1])
    np.testing.assert_array_equal(inputs[0], kept)
    np.testing.assert_array_equal(dy, kept_dy)
    mut.assert_same_gradients(parameters, weights, tolerance=0)


def test_a_layer_runs_in_several_threads_at_once():
    layer = block()
    parameters = mut.bind(layer)
    inputs = [X + worker for worker in range(4)]

    def work(x):
        results = []
        for _ in range(20):
            _, grads = parameters.new_gradients()
            y, cache = layer.forward(x, rotation())
            results.append((y, layer.backward(np.cos(y), cache, grads), mut.copies(grads)))
        return results

    alone = [work(x)[0] for x in inputs]
    together = run_in_threads([lambda x=x: work(x) for x in inputs])
    for (y, dx, grads), results in zip(alone, together, strict=True):
        for result in results:
            np.testing.assert_array_equal(result[0], y)
            np.testing.assert_array_equal(result[1], dx)
            mut.assert_same_gradients(result[2], grads, tolerance=0)


# ---- the tests of the tests: layers with a mistake, each of which must be rejected

class BlockWithoutTheSecondResidual(Block):
    def backward(self, dx, cache, grads):
        first, attention, _, second, mlp, _ = cache
        dx = self.mlp_norm.backward(self.mlp.backward(dx, mlp, grads), second, grads)
        return dx + self.attention_norm.backward(self.attention.backward(dx, attention, grads), first, grads)


class BlockWithoutTheFirstResidual(Block):
    def backward(self, dx, cache, grads):
        first, attention, _, second, mlp, _ = cache
        dx = dx + self.mlp_norm.backward(self.mlp.backward(dx, mlp, grads), second, grads)
        return self.attention_norm.backward(self.attention.backward(dx, attention, grads), first, grads)


class AttentionThatForgetsToRotateBack(Attention):
    def backward(self, dy, cache, grads):
        return super().backward(dy, (*cache[:3], None, None, *cache[5:]), grads)


class AttentionThatForgetsValues(Attention):
    def backward(self, dy, cache, grads):
        *others, attention_cache, output = cache
        return super().backward(dy, (*others, attention_cache._replace(v=attention_cache.k), output), grads)


class AttentionThatForgetsTheNormOfKeys(Attention):
    def backward(self, dy, cache, grads):
        with mock.patch.object(self.k_norm, "backward", lambda dk, *rest: dk):
            return super().backward(dy, cache, grads)


class AttentionThatRotatesBackAfterTheNorms(Attention):
    """The norms and the rotation are undone in the order of forward."""

    def backward(self, dy, cache, grads):
        qkv, q_norm, k_norm, q, k, *others = cache
        ops, late = self.ops, iter((q, k))
        norms = [self.q_norm.backward, self.k_norm.backward]
        turned = [lambda d, c, g, f=f: ops.rope_backward(f(d, c, g), next(late)) for f in norms]
        with mock.patch.object(self.q_norm, "backward", turned[0]), \
                mock.patch.object(self.k_norm, "backward", turned[1]):
            return super().backward(dy, (qkv, q_norm, k_norm, None, None, *others), grads)


class AttentionThatMergesHeadsWithoutTransposing(Attention):
    def backward(self, dy, cache, grads):
        self._merge_heads = lambda x: x.reshape(x.shape[0], x.shape[2], -1)
        try:
            return super().backward(dy, cache, grads)
        finally:
            del self._merge_heads


class SwiGLUThatSwaps(SwiGLU):
    def backward(self, dy, cache, grads):
        gate_up, swiglu, down = cache
        dh = self.ops.swiglu_backward(self.down.backward(dy, down, grads), swiglu)
        return self.gate_up.backward(np.roll(dh, dh.shape[-1] // 2, axis=-1), gate_up, grads)


class LinearWithoutBiasGradient(Linear):
    def backward(self, dy, cache, grads):
        return self.ops.linear_backward(dy, cache, (True, False, False))[0]


class DropoutThatLetsAllThrough(Dropout):
    def backward(self, dy, cache, grads):
        return dy


class TwiceButOnceBackwards(mut.Twice):
    def backward(self, dy, cache, grads):
        first, second = cache
        dx = self.layer.backward(dy, second, grads)
        return self.layer.backward(dx, first, self.parameters.new_gradients()[1])


class EmbeddingThatAssigns(Embedding):
    """Only the last of several equal tokens reaches the table."""

    def backward(self, dy, cache, grads):
        table = np.zeros(cache.table_shape)
        table[cache.ids] = dy
        grads.add(self.weight, table)


WRONG = {
    "second residual": (lambda: block(BlockWithoutTheSecondResidual), (X, rotation())),
    "first residual": (lambda: block(BlockWithoutTheFirstResidual), (X, rotation())),
    "rope_backward": (lambda: attention(AttentionThatForgetsToRotateBack), (X, rotation())),
    "norm of keys": (lambda: attention(AttentionThatForgetsTheNormOfKeys, qk_norm=True), (X, rotation())),
    "norms before the rotation": (lambda: attention(AttentionThatRotatesBackAfterTheNorms, qk_norm=True),
                                  (X, rotation())),
    "keys for values": (lambda: attention(AttentionThatForgetsValues), (X, rotation())),
    "heads merged wrongly": (lambda: attention(AttentionThatMergesHeadsWithoutTransposing), (X, rotation())),
    "gate and up swapped": (lambda: SwiGLUThatSwaps("mlp", HIDDEN, 7), (X,)),
    "no gradient of weight and bias": (lambda: LinearWithoutBiasGradient("linear", HIDDEN, 9, bias=True), (X,)),
    "dropout forgotten": (lambda: DropoutThatLetsAllThrough(0.4, "mlp"), (X, TRAINING)),
    "shared weights counted once": (lambda: TwiceButOnceBackwards(RMSNorm("norm", HIDDEN)), (X,)),
    "repeated tokens": (lambda: EmbeddingThatAssigns("embedding", 7, HIDDEN), (IDS,)),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_layer_is_rejected(mistake, only_directions):
    make, inputs = WRONG[mistake]
    with pytest.raises(GradientError):
        mut.check_layer(make(), *inputs)


class EmbeddingThatOverwrites(Embedding):
    def backward(self, dy, cache, grads):
        grads[self.weight][...] = self.ops.embedding_backward(dy, cache)


class RMSNormThatOverwrites(RMSNorm):
    def backward(self, dy, cache, grads):
        dx, dweight = self.ops.rmsnorm_backward(dy, cache)
        grads[self.weight][...] = dweight
        return dx


@pytest.mark.parametrize("layer, inputs", [(EmbeddingThatOverwrites("embedding", 7, HIDDEN), (IDS,)),
                                           (RMSNormThatOverwrites("norm", HIDDEN), (X,))],
                         ids=["embedding", "rmsnorm"])
def test_a_layer_that_overwrites_gradients_is_rejected(layer, inputs):
    mut.check_layer(layer, *inputs)                                 # as a derivative it is right
    with pytest.raises(AssertionError):
        mut.check_adds(layer, *inputs)


def test_a_parameter_without_effect_must_be_listed(only_directions):
    make, inputs = LAYERS["attention with biases, no rotation"]
    with pytest.raises(GradientError, match="k_proj_bias"):
        mut.check_layer(make(), *inputs)


def test_a_parameter_with_effect_must_not_be_listed(only_directions):
    make, inputs = LAYERS["attention with biases"]
    with pytest.raises(AssertionError, match="k_proj"):
        mut.check_layer(make(), *inputs, zero=("attention.k_proj.bias",))
