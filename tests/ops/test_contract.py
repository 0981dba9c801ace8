"""What DESIGN.md promises of every operation, on every backend, for every case of `tinyllama.course.cases`."""

import numpy as np
import pytest
import strict_device
from on_host import OnHost, arrays_in, as_tuple, differentiable, map_arrays, relative_error

from tinyllama.backends import load_backend
from tinyllama.course.cases import cases
from tinyllama.gradients import gradcheck
from tinyllama.ops import DIFFERENTIABLE, OPS

FLOAT32_TOLERANCE = 1e-5    # float32 against float64, relative to the largest element of the array


def name_of(case):
    return f"{case.op}, {case.label}"


EVERY_CASE = pytest.mark.parametrize("case", cases(), ids=name_of)


def test_every_operation_has_cases_and_both_directions():
    assert {case.op for case in cases()} == set(DIFFERENTIABLE)
    assert {name for name in OPS if name.endswith("_backward")} == {f"{op}_backward" for op in DIFFERENTIABLE}


@EVERY_CASE
def test_gradients_agree_with_differences(ops, case):
    report = gradcheck(getattr(ops, f"{case.op}_forward"), getattr(ops, f"{case.op}_backward"), *case.arrays,
                       tolerance=1e-7, **case.settings)
    assert len(report.rows) == sum(array is not None for array in differentiable(case))
    assert all(row.norm > 0 for row in report.rows)


@EVERY_CASE
def test_an_optional_argument_left_out_has_the_gradient_none(ops, case):
    _, gradients, _ = ops.run(case)
    wanted = [None if array is None else array.shape for array in differentiable(case)]
    assert [None if gradient is None else gradient.shape for gradient in gradients] == wanted


@EVERY_CASE
def test_float32_in_is_float32_out_and_close_to_float64(ops, case):
    y, gradients, dy = ops.run(case)
    y32, gradients32, _ = ops.run(case.astype(np.float32), dy.astype(np.float32))
    for single, double in zip((y32, *gradients32), (y, *gradients), strict=True):
        if double is not None:
            assert double.dtype == np.float64
            assert single.dtype == np.float32
            assert relative_error(single, double) <= FLOAT32_TOLERANCE


@EVERY_CASE
def test_arguments_are_left_unchanged(ops, case):
    arguments = (case.arrays, case.settings)
    before = map_arrays(np.copy, arguments)
    y, _, _ = ops.run(case)
    dy = np.asarray(np.random.default_rng(2).normal(size=y.shape))
    kept = dy.copy()
    ops.run(case, dy)
    np.testing.assert_array_equal(dy, kept)
    for received, expected in zip(arrays_in(arguments), arrays_in(before), strict=True):
        np.testing.assert_array_equal(received, expected)


@EVERY_CASE
def test_backward_can_run_twice_and_leaves_its_cache_unchanged(ops, case):
    y, cache = getattr(ops, f"{case.op}_forward")(*case.arrays, **case.settings)
    backward = getattr(ops, f"{case.op}_backward")
    dy = np.asarray(np.random.default_rng(1).normal(size=y.shape))
    before = map_arrays(np.copy, ops.download(cache))
    first, second = as_tuple(backward(dy, cache)), as_tuple(backward(dy, cache))
    after = ops.download(cache)
    assert arrays_in(before), "the cache shows no array, so that this test would prove nothing"
    for received, expected in zip(arrays_in((second, after)), arrays_in((first, before)), strict=True):
        np.testing.assert_array_equal(received, expected)


@pytest.mark.parametrize("case", [case for case in cases() if len(differentiable(case)) > 1], ids=name_of)
def test_needs_leaves_out_one_gradient_and_keeps_the_others(ops, case):
    _, everything, dy = ops.run(case)
    for skipped in range(len(everything)):
        needs = tuple(i != skipped for i in range(len(everything)))
        _, received, _ = ops.run(case, dy, needs)
        assert received[skipped] is None
        for i, gradient in enumerate(received):
            if i != skipped:
                np.testing.assert_array_equal(gradient, everything[i])
    _, nothing, _ = ops.run(case, dy, (False,) * len(everything))
    assert set(nothing) == {None}


def every_second_element(xp, x):
    """The same numbers, with a gap after each in memory."""
    wide = xp.zeros((*x.shape[:-1], 2 * x.shape[-1]), dtype=x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def transposed_memory(xp, x):
    """The same numbers, with the first dimension moving fastest in memory."""
    return xp.ascontiguousarray(x.T).T


@pytest.mark.parametrize("layout", [every_second_element, transposed_memory])
@EVERY_CASE
def test_the_layout_in_memory_makes_no_difference(backend, case, layout):
    def laid_out(tree):
        return map_arrays(lambda x: layout(backend.xp, x) if x.ndim else x, ops.upload(tree))

    ops = OnHost(backend)
    expected_y, expected, dy = ops.run(case)
    assert not any(x.flags.c_contiguous for x in arrays_in(laid_out(case.arrays)) if layout is every_second_element)
    y, cache = getattr(backend, f"{case.op}_forward")(*laid_out(case.arrays), **laid_out(case.settings))
    received = as_tuple(getattr(backend, f"{case.op}_backward")(laid_out(dy), cache))
    for mine, theirs in zip((y, *received), (expected_y, *expected), strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert relative_error(backend.to_numpy(mine), theirs) <= 1e-13


@EVERY_CASE
def test_on_a_device_it_computes_the_same_and_transfers_nothing(case):
    expected_y, expected, dy = OnHost(load_backend("numpy")).run(case)
    device = strict_device.backend()
    arrays, settings, dy = OnHost(device).upload((case.arrays, case.settings, dy))
    with strict_device.counted() as transfers:
        y, cache = getattr(device, f"{case.op}_forward")(*arrays, **settings)
        gradients = as_tuple(getattr(device, f"{case.op}_backward")(dy, cache))
    assert transfers == strict_device.Transfers(uploads=0, downloads=0)
    assert all(isinstance(array, strict_device.ndarray) for array in arrays_in((y, gradients)))
    for received, wanted in zip((y, *gradients), (expected_y, *expected), strict=True):
        assert (received is None) == (wanted is None)
        if received is not None:
            np.testing.assert_array_equal(received.get(), wanted)
