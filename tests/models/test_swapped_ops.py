"""`backend.with_ops`: a replaced operation is really reached by the model, in either direction."""

import functools

import models_under_test as mut
import numpy as np
import pytest

from tinyllama.backends import load_backend
from tinyllama.ops import OPS

NUMPY = load_backend("numpy")
GPT2 = {"norm": "layernorm", "mlp": "gelu", "positions": "learned"}
# operation: a configuration that uses it
USED_BY = {
    "embedding": {}, "linear": {}, "softmax": {}, "cross_entropy": {}, "swiglu": {}, "rmsnorm": {}, "rope": {},
    "attention": {}, "layernorm": GPT2, "gelu": GPT2, "relu": {"mlp": "relu"}, "dropout": {"dropout": 0.3},
}
every_op = pytest.mark.parametrize("op", USED_BY)


def model_with(op, backend=NUMPY):
    return mut.tiny_model(backend=backend, **USED_BY[op])


def loss_and_grads(model):
    loss, grads = model.loss_and_grads(mut.IDS, mut.TARGETS, dropout=(1, 2, 3))
    return float(loss), grads


def stretched(function):
    """The same function with a result that is too large, and not by the same factor in every feature."""
    @functools.wraps(function)
    def stretch(*args, **kwargs):
        result = function(*args, **kwargs)
        if function.__name__.endswith("_forward"):
            factor = np.linspace(1.1, 1.5, np.shape(result[0])[-1]) if np.ndim(result[0]) else 1.2
            return factor * result[0], result[1]
        if isinstance(result, tuple):
            return tuple(None if gradient is None else 1.2 * gradient for gradient in result)
        return 1.2 * result
    return stretch


@every_op
def test_every_operation_of_the_model_comes_from_its_backend(op):
    calls = []
    loss, _ = loss_and_grads(model_with(op, mut.spying(calls, f"{op}_forward", f"{op}_backward")))
    assert {name for name, *_ in calls} == {f"{op}_forward", f"{op}_backward"}
    assert loss == loss_and_grads(model_with(op))[0]


@every_op
def test_a_broken_forward_changes_the_loss(op):
    forward = f"{op}_forward"
    loss, _ = loss_and_grads(model_with(op))
    broken, _ = loss_and_grads(model_with(op, NUMPY.with_ops(**{forward: stretched(OPS[forward])})))
    assert abs(broken - loss) > 1e-3


@every_op
def test_a_broken_backward_changes_the_gradients_and_not_the_loss(op):
    backward = f"{op}_backward"
    loss, grads = loss_and_grads(model_with(op))
    broken_loss, broken = loss_and_grads(model_with(op, NUMPY.with_ops(**{backward: stretched(OPS[backward])})))
    assert broken_loss == loss
    assert max(np.abs(broken[name] - grads[name]).max() for name in grads) > 1e-3


def test_a_step_calls_each_operation_as_often_as_the_network_has_it():
    calls = []
    model = mut.tiny_model(backend=mut.spying(calls))
    loss_and_grads(model)
    inside = {"embedding", "linear", "rmsnorm", "rope", "attention", "softmax", "swiglu", "cross_entropy"}
    expected = {f"{op}_{way}" for op in inside for way in ("forward", "backward")}
    assert {name for name, *_ in calls} == expected
    # A block calls rmsnorm 2 times and linear 4 times; then come the last norm and the head.
    counts = {name: sum(name == called for called, *_ in calls) for name in expected}
    assert counts["rmsnorm_forward"] == counts["rmsnorm_backward"] == 2 * 2 + 1
    assert counts["linear_forward"] == counts["linear_backward"] == 2 * 4 + 1
    assert counts["attention_forward"] == counts["softmax_forward"] == counts["softmax_backward"] == 2


def test_a_replaced_sampler_chooses_the_tokens():
    def least_likely(logits, **settings):
        return np.argmin(logits, axis=-1)

    plain, mine = mut.tiny_model(), mut.tiny_model(backend=NUMPY.with_ops(sample=least_likely))
    prompt = [3, 1]
    assert list(mine.generate(prompt, 5)) != list(plain.generate(prompt, 5))
    first = next(mine.generate(prompt, 5))
    assert first == np.argmin(plain.logits([prompt])[0, -1])


def test_a_replaced_softmax_reaches_the_sampler_too():
    def certain(x):
        largest = x == x.max(axis=-1, keepdims=True)
        return largest / largest.sum(axis=-1, keepdims=True), None

    def only_in_the_sampler(x):
        return certain(x) if x.ndim == 2 else OPS["softmax_forward"](x)

    plain = mut.tiny_model()
    mine = mut.tiny_model(backend=NUMPY.with_ops(softmax_forward=only_in_the_sampler))
    hot = [list(model.generate([3, 1], 6, temperature=5.0)) for model in (plain, mine)]
    assert hot[0] != hot[1]
    assert hot[1] == list(plain.generate([3, 1], 6, temperature=0))


def test_the_original_backend_is_not_changed():
    before = mut.tiny_model().logits(mut.IDS)
    NUMPY.with_ops(linear_forward=stretched(OPS["linear_forward"]))
    np.testing.assert_array_equal(mut.tiny_model().logits(mut.IDS), before)
    assert NUMPY.linear_forward is OPS["linear_forward"]


def test_two_models_with_different_backends_live_side_by_side():
    plain = mut.tiny_model()
    before = plain.logits(mut.IDS)
    broken = mut.tiny_model(backend=NUMPY.with_ops(rmsnorm_forward=stretched(OPS["rmsnorm_forward"])))
    assert np.abs(broken.logits(mut.IDS) - before).max() > 1e-2
    np.testing.assert_array_equal(plain.logits(mut.IDS), before)
