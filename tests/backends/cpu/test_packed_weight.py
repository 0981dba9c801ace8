"""Quantised weights in blocks of rows that lie side by side: the same weights, in one form, for every kernel."""

import sys

import numpy as np
import pytest

pytest.importorskip("numba", reason="Numba is not installed.")

from tinyllama.backends import load_backend
from tinyllama.backends.cpu import compiling
from tinyllama.backends.cpu.packed_weight import ROWS, PackedWeight, pack
from tinyllama.ops import OPS
from tinyllama.ops.quantized_linear import QuantizedWeight, StackedWeight, dequantize, quantize_groups, quantize_rows

BACKEND = load_backend("numba")
# How many rows, how many columns, bits, columns of a group: groups shorter and longer than what the kernels unroll,
# with and without a rest; rows that fill no block, one, several, and several and a part of one.
CASES = [(1, 2, 4, 2), (ROWS, 32, 4, 32), (ROWS + 1, 96, 4, 32), (3 * ROWS, 64, 4, 64), (5, 108, 4, 36), (70, 12, 4, 4),
         (40, 20, 4, 20), (1, 3, 8, 1), (ROWS, 32, 8, 16), (ROWS - 1, 96, 8, 32), (5 * ROWS + 7, 57, 8, 19),
         (40, 34, 8, 17), (600, 1000, 4, 200), (900, 1000, 8, 8)]
every_case = pytest.mark.parametrize(("outputs", "inputs", "bits", "group_size"), CASES)
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def make(rng, outputs, inputs, bits, group_size, dtype="float32"):
    return quantize_groups(rng.normal(size=(outputs, inputs)).astype(dtype), bits, group_size)


@every_case
def test_it_holds_the_same_arrays_in_another_order(rng, outputs, inputs, bits, group_size):
    weight = make(rng, outputs, inputs, bits, group_size)
    packed = pack(weight)
    assert isinstance(packed, PackedWeight)
    assert (packed.shape, packed.size, packed.bits) == (weight.shape, weight.size, bits)
    for name in ("values", "scales", "offsets"):
        array, original = getattr(packed, name), getattr(weight, name)
        if original is None:
            assert array is None
            continue
        assert array.ctypes.data % 64 == 0
        row, column = outputs - 1, original.shape[1] - 1
        assert array[row // ROWS, column, row % ROWS] == original[row, column]
        assert not np.shares_memory(array, original)
    assert packed.nbytes == sum(array.nbytes for array in (packed.values, packed.scales, packed.offsets)
                                if array is not None)
    for received, expected in zip(packed.unpack(), weight, strict=True):
        assert (received is None) == (expected is None)
        if expected is not None:
            assert received.dtype == expected.dtype
            np.testing.assert_array_equal(received, expected)


def test_whole_rows_of_int8_stay_as_they_are_in_a_copy_of_their_own(rng):
    weight = quantize_rows(rng.normal(size=(5, 7)))
    packed = pack(weight)
    assert isinstance(packed, QuantizedWeight)
    np.testing.assert_array_equal(packed.values, weight.values)
    assert not np.shares_memory(packed.values, weight.values)
    assert isinstance(pack(weight._replace(offsets=np.ones((5, 1)))), PackedWeight)     # but not with offsets


@DTYPES
@every_case
@pytest.mark.parametrize("batch", [(1,), (2,), (3, 40)], ids=str)
def test_products_are_those_of_the_readable_operation(rng, outputs, inputs, bits, group_size, batch, dtype):
    weight = make(rng, outputs, inputs, bits, group_size, dtype)
    x = rng.normal(size=(*batch, inputs)).astype(dtype)
    y = BACKEND.quantized_linear(x, pack(weight))
    exact = weight.map(lambda array: array if array.dtype.itemsize == 1 else array.astype(np.float64))
    expected = OPS["quantized_linear"](x.astype(np.float64), exact)
    sizes = np.abs(dequantize(exact._replace(offsets=None), slice(None)))
    if weight.offsets is not None:
        sizes += np.repeat(np.abs(weight.offsets), group_size, axis=1)
    # One rounding for each term, its scale and its offset, and those of a sum of so many terms.
    allowed = np.finfo(dtype).eps / 2 * (4 * np.sqrt(inputs) + 4) * (np.abs(x) @ sizes.T)
    assert (y.shape, y.dtype) == ((*batch, outputs), np.dtype(dtype))
    assert (np.abs(y - expected) <= allowed).all()


@DTYPES
@every_case
def test_rows_are_those_of_the_readable_operation(rng, outputs, inputs, bits, group_size, dtype):
    weight = make(rng, outputs, inputs, bits, group_size, dtype)
    packed, ids = pack(weight), rng.integers(0, outputs, size=(2, 3))
    for rows in (ids, slice(None), slice(1, 3), slice(0, 0), ids[:0], np.array(outputs - 1)):
        floats, expected = BACKEND.dequantize(packed, rows), dequantize(weight, rows)
        assert (floats.shape, floats.dtype) == (expected.shape, np.dtype(dtype))
        largest = np.abs(weight.scales).max() * (15 if bits == 4 else 127)
        np.testing.assert_allclose(floats, expected, rtol=0, atol=4 * np.finfo(dtype).eps * largest)


@pytest.fixture
def plain_python(monkeypatch):
    """The kernels without a compiler, as coverage can see them."""
    for compiled, _ in compiling._kernels:
        function = getattr(compiled, "py_func", compiled)
        monkeypatch.setitem(function.__globals__, function.__name__, function)
    monkeypatch.setitem(sys.modules[BACKEND.dequantize.__module__].__dict__, "cores", lambda: 1)


@pytest.mark.parametrize(("outputs", "inputs", "bits", "group_size"), [case for case in CASES if case[0] < 2 * ROWS])
def test_without_a_compiler_they_give_the_same(plain_python, rng, outputs, inputs, bits, group_size):
    weight = make(rng, outputs, inputs, bits, group_size, "float64")
    packed, ids = pack(weight), rng.integers(0, outputs, size=3)
    np.testing.assert_allclose(BACKEND.dequantize(packed, ids), dequantize(weight, ids), rtol=0, atol=1e-14)
    for batch in (1, 3):
        x = rng.normal(size=(batch, inputs))
        expected = OPS["quantized_linear"](x, weight)
        np.testing.assert_allclose(BACKEND.quantized_linear(x, packed), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rows", [[0, 5], [-1, 2]])
def test_rows_that_are_not_there_are_refused(rng, rows):
    packed = pack(make(rng, 5, 8, 4, 4))
    with pytest.raises(IndexError, match=f"rows: expected numbers from 0 to 4, got {rows[0]} to {rows[1]}"):
        BACKEND.dequantize(packed, np.array(rows))


def test_what_does_not_fit_is_refused(rng):
    packed = pack(make(rng, 5, 8, 4, 4))
    with pytest.raises(TypeError, match="x: expected the dtype of the weight's scales, float32, got float64"):
        BACKEND.quantized_linear(np.ones((2, 8)), packed)
    with pytest.raises(TypeError, match="x: expected an array of float32 or float64, got int64"):
        BACKEND.quantized_linear(np.ones((2, 8), int), packed)
    with pytest.raises(ValueError, match=r"weight: expected the shape \(O, 9\).* got \(5, 8\)"):
        BACKEND.quantized_linear(np.ones((2, 9), np.float32), packed)
    with pytest.raises(ValueError, match=r"scales: expected the shape \(5, G\)"):
        pack(make(rng, 5, 8, 4, 4)._replace(scales=np.ones((4, 2))))


def test_parts_packed_or_not_are_one_matrix(rng):
    weights = [rng.normal(size=(rows, 16)) for rows in (3, ROWS + 1, 2)]
    parts = [pack(quantize_groups(weights[0], 4, 8)), pack(quantize_rows(weights[1])), weights[2]]
    floats = np.concatenate([dequantize(parts[0].unpack(), slice(None)), dequantize(parts[1], slice(None)), weights[2]])
    for batch in ((1,), (4,)):
        x = rng.normal(size=(*batch, 16))
        np.testing.assert_allclose(BACKEND.quantized_linear(x, StackedWeight(parts)), x @ floats.T, atol=1e-13)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("array", ["scales", "offsets"])
def test_a_number_that_is_none_stays_in_its_row(rng, array, rows):
    weight = make(rng, ROWS + 3, 24, 4, 12)
    getattr(weight, array)[ROWS + 1, 1] = np.nan
    y = BACKEND.quantized_linear(rng.normal(size=(rows, 24)).astype(np.float32), pack(weight))
    assert np.isnan(y[:, ROWS + 1]).all()
    assert np.isfinite(np.delete(y, ROWS + 1, axis=1)).all()
