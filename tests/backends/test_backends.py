import numpy as np
import pytest

import tinyllama.ops as operations
from tinyllama.backends import available_backends, load_backend
from tinyllama.backends.backend import Backend
from tinyllama.backends.reference import aligned_zeros
from tinyllama.ops import OPS


@pytest.fixture
def numpy_backend():
    return load_backend("numpy")


@pytest.fixture
def qkv(rng):
    return tuple(rng.normal(size=(2, 3, 4, 5)) for _ in range(3))


def test_numpy_is_always_there_and_comes_first():
    assert available_backends()[0] == "numpy"


def test_an_unknown_backend_is_answered_with_those_that_are_there():
    with pytest.raises(ValueError, match=f"backend: expected one of '{available_backends()[0]}'.*, got 'abacus'"):
        load_backend("abacus")


def test_a_backend_knows_its_name_and_has_every_operation(backend):
    assert backend.name in available_backends()
    assert load_backend(backend.name) is backend
    assert all(callable(getattr(backend, name)) for name in OPS)
    assert isinstance(backend.runs_in_threads, bool)
    assert backend.synchronize() is None


def test_the_numpy_backend_is_the_book(numpy_backend):
    assert all(getattr(numpy_backend, name) is function for name, function in OPS.items())
    assert numpy_backend.xp is np


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_arrays_go_to_the_backend_and_back(backend, rng, dtype):
    x = (10 * rng.normal(size=(2, 3))).astype(dtype)
    there = backend.asarray(x)
    assert (there.shape, there.dtype) == (x.shape, x.dtype)
    back = backend.to_numpy(there)
    assert isinstance(back, np.ndarray)
    np.testing.assert_array_equal(back, x)
    assert backend.asarray([1, 2], dtype=np.float32).dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64, "float32"])
@pytest.mark.parametrize("size", [0, 1, 7, 1000])
def test_zeros_are_flat_writable_and_zero(backend, size, dtype):
    buffer = backend.zeros(size, dtype)
    assert (buffer.shape, buffer.dtype) == ((size,), np.dtype(dtype))
    assert not backend.to_numpy(buffer).any()
    buffer += 1
    assert backend.to_numpy(buffer).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, "float16"])
@pytest.mark.parametrize("size", [1, 3, 17, 1000, 12345])
def test_aligned_zeros_begin_on_a_multiple_of_64_bytes(size, dtype):
    buffers = [aligned_zeros(size, dtype) for _ in range(8)]            # kept, so that they lie in different places
    assert all(buffer.ctypes.data % 64 == 0 for buffer in buffers)
    assert all(buffer.shape == (size,) and buffer.dtype == np.dtype(dtype) for buffer in buffers)
    assert not any(buffer.any() for buffer in buffers)


# --- replacing operations ------------------------------------------------------------------------------------------


def uniform_softmax(x):
    """Every score gets the same probability."""
    return np.full_like(x, 1 / x.shape[-1]), None


def test_a_replaced_operation_is_the_one_that_is_called(backend):
    def mine(x):
        return x, "my cache"

    assert backend.with_ops(relu_forward=mine).relu_forward("anything") == ("anything", "my cache")


def test_the_original_backend_is_left_as_it_was(backend):
    before = {name: getattr(backend, name) for name in OPS}
    backend.with_ops(softmax_forward=uniform_softmax, relu_forward=uniform_softmax)
    assert {name: getattr(backend, name) for name in OPS} == before
    assert backend.with_ops(gelu_forward=uniform_softmax).softmax_forward is before["softmax_forward"]
    assert load_backend(backend.name) is backend


def test_replacements_add_up(backend):
    first = backend.with_ops(relu_forward=uniform_softmax)
    both = first.with_ops(gelu_forward=uniform_softmax)
    assert both.relu_forward is both.gelu_forward is uniform_softmax
    assert first.gelu_forward is backend.gelu_forward
    assert "with own gelu_forward, relu_forward" in repr(both)
    assert "own" not in repr(backend)


def test_a_new_backend_keeps_everything_else(backend):
    mine = backend.with_ops(relu_forward=uniform_softmax)
    for attribute in ("name", "xp", "asarray", "to_numpy", "zeros", "synchronize", "runs_in_threads",
                      "linear_forward", "adamw_step"):
        assert getattr(mine, attribute) == getattr(backend, attribute)


def test_an_unknown_name_is_answered_with_the_nearest(backend):
    with pytest.raises(ValueError, match=r"with_ops: 'rms_norm_forward' is not an operation of tinyllama\.ops; "
                                         r"did you mean 'rmsnorm_forward'\?"):
        backend.with_ops(rms_norm_forward=uniform_softmax)
    with pytest.raises(ValueError, match=r"with_ops: 'xyzzy' is not an operation of tinyllama\.ops$"):
        backend.with_ops(xyzzy=uniform_softmax)


def test_a_replaced_softmax_is_reached_through_attention(numpy_backend, qkv):
    y, _ = numpy_backend.with_ops(softmax_forward=uniform_softmax).attention_forward(*qkv)
    np.testing.assert_allclose(y, np.broadcast_to(qkv[2].mean(axis=2, keepdims=True), y.shape), rtol=1e-14)
    assert not np.allclose(y, numpy_backend.attention_forward(*qkv)[0])


def test_a_replaced_softmax_backward_is_reached_through_attention(numpy_backend, qkv):
    def no_gradient(dy, cache, needs=None):
        return np.zeros_like(dy)

    mine = numpy_backend.with_ops(softmax_backward=no_gradient)
    y, cache = mine.attention_forward(*qkv)
    dq, dk, dv = mine.attention_backward(np.ones_like(y), cache)
    assert not dq.any()
    assert not dk.any()
    np.testing.assert_array_equal(dv, numpy_backend.attention_backward(np.ones_like(y), cache)[2])


def test_a_replaced_softmax_is_reached_through_the_sampler(numpy_backend):
    logits, uniform = np.array([[9.0, 0.0, 0.0]]), np.array([[0.5]])
    assert numpy_backend.sample(logits, uniform=uniform) == [0]
    assert numpy_backend.with_ops(softmax_forward=uniform_softmax).sample(logits, uniform=uniform) != [0]


# --- a backend whose attention is one kernel, with a softmax of its own inside ---------------------------------------


def fused_attention_forward(q, k, v, *, causal=False):
    return "fused", None


def fused_attention_backward(dy, cache, needs=None):
    return "fused backward"


@pytest.fixture
def fused():
    functions = OPS | {"attention_forward": fused_attention_forward, "attention_backward": fused_attention_backward}
    return Backend("fused", np, functions, asarray=np.asarray, to_numpy=np.asarray, zeros=aligned_zeros,
                   synchronize=lambda: None, runs_in_threads=True)


def test_a_fused_kernel_is_used_as_long_as_nothing_inside_it_is_replaced(fused, qkv):
    assert fused.attention_forward(*qkv)[0] == "fused"
    assert fused.with_ops(linear_forward=uniform_softmax).attention_forward(*qkv)[0] == "fused"


@pytest.mark.parametrize("replaced", ["softmax_forward", "softmax_backward"])
def test_a_replacement_that_a_fused_kernel_would_not_reach_brings_the_readable_pair_back(fused, qkv, replaced):
    """Both directions come back, also where only one of them calls what was replaced: they share a cache."""
    mine = fused.with_ops(**{replaced: OPS[replaced]})
    y, cache = mine.attention_forward(*qkv)
    expected, expected_cache = operations.attention_forward(*qkv)
    np.testing.assert_array_equal(y, expected)
    for received, wanted in zip(mine.attention_backward(y, cache),
                                operations.attention_backward(y, expected_cache), strict=True):
        np.testing.assert_array_equal(received, wanted)


def test_the_readable_pair_reaches_the_replacement(fused, qkv):
    mine = fused.with_ops(softmax_forward=uniform_softmax)
    y, _ = mine.attention_forward(*qkv)
    np.testing.assert_allclose(y, np.broadcast_to(qkv[2].mean(axis=2, keepdims=True), y.shape), rtol=1e-14)
    later, _ = mine.with_ops(relu_forward=uniform_softmax).attention_forward(*qkv)
    np.testing.assert_array_equal(later, y)


@pytest.mark.parametrize("in_one_step", [True, False], ids=["together", "one after the other"])
def test_an_attention_of_ones_own_stays_whatever_it_calls(fused, qkv, in_one_step):
    def my_attention_forward(q, k, v, *, causal=False):
        return "mine", None

    own = {"attention_forward": my_attention_forward, "softmax_forward": uniform_softmax}
    if in_one_step:
        mine = fused.with_ops(**own)
    else:
        mine = fused.with_ops(attention_forward=my_attention_forward).with_ops(softmax_forward=uniform_softmax)
    assert mine.attention_forward(*qkv) == ("mine", None)
    assert mine.attention_backward("dy", None) == "fused backward"
