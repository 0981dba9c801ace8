"""Every kernel against the readable operation, within what rounding may do, for any layout and any numbers."""

import numpy as np
import pytest
from kernel_cases import larger_cases, ops_with_a_kernel
from on_host import arrays_in, as_tuple, map_arrays
from rounding import check_against_readable

pytest.importorskip("numba", reason="Numba is not installed.")

from tinyllama.backends import load_backend
from tinyllama.backends.cpu import compiling
from tinyllama.course.cases import cases
from tinyllama.ops import OPS

BACKEND = load_backend("numba")
KERNEL_OPS = ops_with_a_kernel(BACKEND)
EVERY_OP = pytest.mark.parametrize("op", KERNEL_OPS)
EVERY_CASE = pytest.mark.parametrize(
    "case", [case for op in KERNEL_OPS for case in (*cases(op), *larger_cases(op))],
    ids=lambda case: f"{case.op}, {case.label}")
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def test_the_operations_of_a_training_step_have_kernels():
    assert set(KERNEL_OPS) >= {"embedding", "rmsnorm", "layernorm", "rope", "attention", "swiglu", "relu", "gelu",
                               "silu", "sigmoid", "softmax", "log_softmax", "cross_entropy", "dropout"}
    assert all(getattr(BACKEND, name) is not OPS[name] for name in ("adamw_step", "sgd_step", "global_norm", "sample"))


@EVERY_CASE
def test_it_gives_what_the_readable_version_gives(case):
    check_against_readable(BACKEND, case)


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def transposed(x):
    return np.ascontiguousarray(x.T).T


def sliced(x):
    """With a gap after each element, beginning inside a larger array."""
    wide = np.full((*x.shape[:-1], 2 * x.shape[-1] + 3), np.nan if x.dtype.kind == "f" else 0, dtype=x.dtype)
    wide[..., 1:-2:2] = x
    return wide[..., 1:-2:2]


def backwards(x):
    """Negative strides in every dimension."""
    every = (slice(None, None, -1),) * x.ndim
    return np.ascontiguousarray(x[every])[every]


def results(case, layout=lambda x: x):
    """y and the gradients of the kernels, from arguments in that layout."""
    def laid_out(tree):
        return map_arrays(lambda x: layout(x) if x.ndim else x, tree)

    y, cache = getattr(BACKEND, f"{case.op}_forward")(*laid_out(case.arrays), **laid_out(case.settings))
    dy = np.asarray(np.random.default_rng(1).normal(size=y.shape), dtype=y.dtype)
    return arrays_in((y, as_tuple(getattr(BACKEND, f"{case.op}_backward")(laid_out(dy), cache))))


def assert_same_bits(received, expected):
    for mine, theirs in zip(received, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@DTYPES
@pytest.mark.parametrize("layout", [read_only, transposed, sliced, backwards])
@EVERY_CASE
def test_the_layout_in_memory_makes_no_difference(case, layout, dtype):
    """Not more than rounding: BLAS adds up in another order where a matrix is transposed."""
    case = case.astype(dtype)
    for received, expected in zip(results(case, layout), results(case), strict=True):
        assert received.dtype == dtype
        np.testing.assert_allclose(received, expected, rtol=0, atol=16 * np.finfo(dtype).eps
                                   * np.max(np.abs(expected), initial=1.0))


@DTYPES
@EVERY_CASE
def test_two_runs_give_the_same_bits_and_leave_the_arguments_alone(case, dtype):
    case = case.astype(dtype)
    before = map_arrays(np.copy, (case.arrays, case.settings))
    assert_same_bits(results(case), results(case))
    assert_same_bits(arrays_in((case.arrays, case.settings)), arrays_in(before))


@DTYPES
@EVERY_OP
def test_no_rows_give_no_rows(op, dtype):
    first = next(larger_cases(op)).astype(dtype)
    arrays = tuple(x[:0] if i == 0 or op == "attention" else x for i, x in enumerate(first.arrays))
    settings = {name: value[:0] if name == "targets" else value for name, value in first.settings.items()}
    y, *gradients = results(first._replace(arrays=arrays, settings=settings))
    assert y.dtype == dtype
    assert y.size == 0 or (op == "cross_entropy" and y == 0)
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["the argument", "the gradient that arrives"])
@DTYPES
@pytest.mark.parametrize("op", [op for op in KERNEL_OPS if op != "embedding"])
def test_nan_and_infinity_stay_visible(op, dtype, where, number):
    """Wherever the readable version shows a number that is none, so does the kernel."""
    case = next(case for case in larger_cases(op) if len(case.arrays[0]) > 1).astype(dtype)
    case.arrays[0][(0,) * (case.arrays[0].ndim - 1) + (-1,)] = number if where == "the argument" else 1

    def finite(backend):
        y, cache = getattr(backend, f"{op}_forward")(*case.arrays, **case.settings)
        dy = np.ones_like(y)
        dy[(0,) * y.ndim] = number if where != "the argument" else 1
        return [np.isfinite(array) for array in arrays_in((y, as_tuple(getattr(backend, f"{op}_backward")(dy, cache))))]

    with np.errstate(all="ignore"):
        received, expected = finite(BACKEND), finite(load_backend("numpy"))
    if np.isnan(number) or where != "the argument":         # an infinite argument may well have a finite result
        assert not all(x.all() for x in expected)
    for mine, theirs in zip(received, expected, strict=True):
        assert not np.any(mine & ~theirs)


@pytest.mark.parametrize("op", ["softmax", "log_softmax", "cross_entropy"])
@DTYPES
def test_logits_of_minus_infinity_and_far_below_the_largest_are_impossible(op, dtype):
    """Masked logits: neither may turn the row into NaN."""
    x = np.array([[0.5, -np.inf, 1.0], [0.5, -1e30, 1.0]], dtype=dtype)
    settings = {"targets": np.array([0, 2])} if op == "cross_entropy" else {}
    y, cache = getattr(BACKEND, f"{op}_forward")(x, **settings)
    expected, expected_cache = OPS[f"{op}_forward"](x, **settings)
    np.testing.assert_allclose(y, expected, rtol=8 * np.finfo(dtype).eps)
    dy = np.ones_like(y)
    np.testing.assert_allclose(getattr(BACKEND, f"{op}_backward")(dy, cache),
                               OPS[f"{op}_backward"](dy, expected_cache), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("op", [op for op in KERNEL_OPS if op != "cross_entropy"])
def test_a_gradient_of_another_shape_is_refused_by_name(op):
    """A kernel that read past the end of an array would return whatever lies there."""
    case = cases(op)[0]
    y, cache = getattr(BACKEND, f"{op}_forward")(*case.arrays, **case.settings)
    with pytest.raises(ValueError, match="dy: expected the shape of"):
        getattr(BACKEND, f"{op}_backward")(y[:-1], cache)


@pytest.mark.parametrize("op", [op for op in KERNEL_OPS if op not in ("embedding", "rope")])    # which keep no numbers
@DTYPES
def test_arrays_of_another_dtype_become_that_of_the_first(op, dtype):
    """A kernel that took the one for the other would read nonsense."""
    case = cases(op)[0].astype(dtype)
    other = np.float64 if dtype == np.float32 else np.float32
    y, gradients = run(case)
    first = next(i for i, x in enumerate(case.arrays) if x is not None and x.dtype.kind == "f")
    mixed = tuple(x if i == first or x is None or x.dtype.kind != "f" else x.astype(other)
                  for i, x in enumerate(case.arrays))
    mixed_y, mixed_gradients = run(case._replace(arrays=mixed), other)
    assert mixed_y.dtype == dtype
    np.testing.assert_allclose(mixed_y, y, rtol=1e-5, atol=1e-5)
    for mine, expected in zip(mixed_gradients, gradients, strict=True):
        if expected is not None:
            assert mine.dtype == dtype
            np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-5)


def run(case, dy_dtype=None):
    y, cache = getattr(BACKEND, f"{case.op}_forward")(*case.arrays, **case.settings)
    dy = np.random.default_rng(1).normal(size=np.shape(y)).astype(y.dtype).astype(dy_dtype or y.dtype)
    return y, as_tuple(getattr(BACKEND, f"{case.op}_backward")(dy, cache))


def test_tables_of_a_rotation_may_lie_in_memory_in_different_ways(rng):
    x, table = rng.normal(size=(2, 3, 5, 8)), rng.normal(size=(5, 8))
    halves, apart = (table[:, :4], table[:, 4:]), (table[:, :4].copy(), table[:, 4:])
    for cos, sin in (halves, apart):
        y, cache = BACKEND.rope_forward(x, cos=cos, sin=sin)
        expected, expected_cache = OPS["rope_forward"](x, cos=cos, sin=sin)
        np.testing.assert_allclose(y, expected, rtol=1e-13)
        np.testing.assert_allclose(BACKEND.rope_backward(y, cache), OPS["rope_backward"](y, expected_cache), rtol=1e-12)


@pytest.mark.parametrize("shape", [(4, 4), (6, 4), (5, 3)])
def test_a_table_that_does_not_fit_is_refused_as_by_the_readable_version(shape):
    with pytest.raises(ValueError, match="broadcast"):
        BACKEND.rope_forward(np.zeros((2, 3, 5, 8)), cos=np.zeros(shape), sin=np.zeros(shape))


@pytest.mark.parametrize("target", [7, 1000, -1, -101])
def test_a_target_beyond_the_vocabulary_is_refused(target):
    with pytest.raises(IndexError, match=r"targets: expected 0 to 6, or -100 for none"):
        BACKEND.cross_entropy_forward(np.zeros((2, 7)), targets=np.array([3, target]))


def test_an_array_whose_elements_share_their_memory_is_read_rightly(rng):
    q, k, v = rng.normal(size=(1, 1, 1, 4)), rng.normal(size=(2, 3, 5, 4)), rng.normal(size=(2, 3, 5, 4))
    spread = np.lib.stride_tricks.as_strided(q, k.shape, (0, 0, 0, 8))
    y, _ = BACKEND.attention_forward(spread, k, v)
    np.testing.assert_allclose(y, OPS["attention_forward"](spread.copy(), k, v)[0], rtol=1e-12)


@pytest.mark.parametrize("name", ["adamw_step", "sgd_step"])
def test_an_update_of_a_matrix_is_refused(name):
    arrays = [np.ones((3, 4)) for _ in range(4 if name == "adamw_step" else 3)]
    with pytest.raises(ValueError, match=r"weight: expected a contiguous array \(N,\), got the shape \(3, 4\)"):
        getattr(BACKEND, name)(*arrays, **UPDATES[name])


@pytest.mark.parametrize("op", ["rmsnorm", "layernorm"])
def test_a_weight_of_another_length_is_refused_by_name(op):
    with pytest.raises(ValueError, match=r"weight: expected the shape of a row of x, \(5,\), got \(6,\)"):
        getattr(BACKEND, f"{op}_forward")(np.zeros((3, 5)), np.ones(6))


@pytest.mark.parametrize("op", [op for op in KERNEL_OPS if op != "embedding"])
def test_whole_numbers_and_half_precision_are_refused_by_name(op):
    case = cases(op)[0]
    for dtype in (np.int64, np.float16):
        arrays = [None if x is None else x.astype(dtype) for x in case.arrays]
        with pytest.raises(TypeError, match=r"expected an array of float32 or float64, got (int64|float16)"):
            getattr(BACKEND, f"{op}_forward")(*arrays, **case.settings)


# --- the updates, in place -------------------------------------------------------------------------------------------

UPDATES = {
    "sgd_step": {"learning_rate": 3e-2, "momentum": 0.8, "weight_decay": 0.1, "l2": 0.2, "gradient_scale": 0.3},
    "adamw_step": {"step": 3, "learning_rate": 3e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "l2": 0.2,
                   "gradient_scale": 0.3},
}


def updated(step, settings, size, dtype):
    """All arrays after one step: the weights, the gradient, and what the optimizer remembers."""
    rng = np.random.default_rng(size)
    arrays = [rng.normal(size=size).astype(dtype) for _ in range(3)]
    if "betas" in settings:
        arrays.append(rng.random(size).astype(dtype))
    step(*arrays, **settings)
    return arrays


@pytest.mark.parametrize("size", [0, 1, 3, 17, 257, 70_000, 140_001])
@pytest.mark.parametrize("name", UPDATES)
def test_an_update_is_that_of_the_readable_version(name, size):
    for dtype, tolerance in ((np.float32, 8 * 2**-24), (np.float64, 8 * 2**-53)):
        received = updated(getattr(BACKEND, name), UPDATES[name], size, dtype)
        expected = updated(OPS[name], UPDATES[name], size, dtype)
        for mine, theirs in zip(received, expected, strict=True):
            assert mine.dtype == dtype
            np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance)    # a few sums of numbers near 1


@pytest.mark.parametrize("size", [0, 1, 3, 17, 257, 4097, 140_001])
def test_the_length_of_all_gradients(size):
    gradient = np.random.default_rng(size).normal(size=size)
    expected = np.sqrt(np.sum(gradient * gradient))
    assert BACKEND.global_norm(gradient) == pytest.approx(expected, rel=1e-13)
    received = BACKEND.global_norm(gradient.astype(np.float32))
    assert received.dtype == np.float32
    assert received == pytest.approx(expected, rel=(4 + 2 * min(size, 4096)**0.5) * 2**-24)     # blocks of 4,096


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_gradient_that_is_no_number_shows_in_the_length_and_in_the_weights(number):
    gradient = np.ones(5000, np.float32)
    gradient[4321] = number
    assert not np.isfinite(BACKEND.global_norm(gradient))
    for name, settings in UPDATES.items():
        arrays = [np.ones(5000, np.float32), gradient, *(np.ones(5000, np.float32) for _ in range(2))]
        with np.errstate(all="ignore"):
            getattr(BACKEND, name)(*arrays[:3 + ("betas" in settings)], **settings)
        assert np.flatnonzero(~np.isfinite(arrays[0])).tolist() == [4321]


# --- one compiled version ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(compiling.numba.config.DISABLE_JIT, reason="Nothing is compiled.")
def test_no_layout_makes_numba_compile_a_second_version():
    """Each would cost a user seconds, at a moment when nobody expects it."""
    for op in KERNEL_OPS:
        for case in (cases(op)[0], next(larger_cases(op))):
            for dtype in (np.float32, np.float64):
                for layout in (np.copy, read_only, transposed, sliced, backwards):
                    results(case.astype(dtype), layout)
    for layout in (np.copy, read_only, sliced, backwards):
        for dtype in (np.float32, np.float64):
            gradient = layout(np.ones(50, dtype))
            BACKEND.global_norm(gradient)
            BACKEND.sgd_step(np.ones(50, dtype), gradient, np.ones(50, dtype), **UPDATES["sgd_step"])
            BACKEND.adamw_step(np.ones(50, dtype), gradient, np.ones(50, dtype), np.ones(50, dtype),
                               **UPDATES["adamw_step"])
            BACKEND.sample(layout(np.ones((2, 9), dtype)), uniform=layout(np.full((2, 1), 0.5, dtype)), top_p=0.5)
    for compiled, _ in compiling._kernels:
        assert len(compiled.signatures) <= len(compiling.DTYPES), f"{compiled}: {compiled.signatures}"
