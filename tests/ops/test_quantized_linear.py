"""Quantised weights: what they stand for, how far they are from what they were made of, and products with them."""

import numpy as np
import pytest
import strict_device

from tinyllama.ops.quantized_linear import (
    QuantizedWeight,
    StackedWeight,
    dequantize,
    quantize_groups,
    quantize_rows,
    quantized_linear,
)

SHAPES = [(1, 2), (1, 6), (5, 2), (7, 64), (3, 66), (32, 40), (33, 96), (1025, 40), (2100, 18), (64, 2100)]     # (O, I)
KINDS = {"8 bits, rows": (8, None), "8 bits, groups": (8, 2), "4 bits, groups": (4, 2), "4 bits, rows": (4, None)}
every_kind = pytest.mark.parametrize("kind", KINDS)
DTYPES = pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-13), ("float32", 2e-6)])


def random_weight(rng, shape, dtype="float64"):
    """Rows of very different sizes."""
    return (rng.normal(size=shape) * 10.0 ** rng.uniform(-3, 3, size=(shape[0], 1))).astype(dtype)


def make(kind, weight):
    """The quantised weight; groups are a half, a third, or another part of a row."""
    bits, part = KINDS[kind]
    width = weight.shape[1]
    sizes = [size for size in (32, 16, 6, 10, 2) if width % size == 0 and size < width]
    return quantize_groups(weight, bits, sizes[0] if part and sizes else width)


def as_floats(weight):
    """By the formula, one number after another, in float64."""
    rows, width = weight.shape
    floats = np.empty((rows, width))
    for i in range(width):
        group = i * weight.scales.shape[1] // width
        if weight.bits == 4:
            numbers = weight.values[:, i // 2] // 16 if i % 2 else weight.values[:, i // 2] % 16
        else:
            numbers = weight.values[:, i]
        floats[:, i] = numbers * weight.scales[:, group].astype(np.float64)
        if weight.offsets is not None:
            floats[:, i] += weight.offsets[:, group]
    return floats


def size_of_terms(x, weight):
    """What the products add up, sign apart, for each of their results; number · scale and offset may cancel."""
    without_offsets = np.abs(as_floats(weight._replace(offsets=None)))
    if weight.offsets is not None:
        without_offsets += np.repeat(np.abs(weight.offsets), weight.shape[1] // weight.scales.shape[1], axis=1)
    return np.abs(x.astype(np.float64)) @ without_offsets.T


# ---- rounding

@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_weight_moves_by_more_than_half_a_scale(rng, shape):
    weight = random_weight(rng, shape)
    quantized = quantize_rows(weight)
    values, scales, offsets = quantized
    assert (values.shape, values.dtype, scales.shape, scales.dtype) == (shape, np.int8, (shape[0], 1), np.float64)
    assert offsets is None
    np.testing.assert_allclose(scales, np.abs(weight).max(axis=1, keepdims=True) / 127, rtol=1e-15)
    assert (np.abs(weight - values * scales) <= scales / 2 * (1 + 1e-12)).all()
    assert (np.abs(values).max(axis=1) == 127).all()


@every_kind
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_in_groups_no_weight_moves_by_more_than_half_the_scale_of_its_group(rng, shape, kind):
    weight = random_weight(rng, shape)
    quantized = make(kind, weight)
    assert quantized.shape == shape
    scales = np.repeat(quantized.scales, shape[1] // quantized.scales.shape[1], axis=1)                     # (O, I)
    moved = np.abs(as_floats(quantized) - weight)
    assert (moved <= scales / 2 * (1 + 1e-12)).all()
    grouped = weight.reshape(*quantized.scales.shape, -1)                                                   # (O, G, ..)
    span = np.abs(grouped).max(2) / 127 if quantized.bits == 8 else (grouped.max(2) - grouped.min(2)) / 15
    np.testing.assert_allclose(quantized.scales, span, rtol=1e-15)


def test_the_values_of_a_row_that_can_be_computed_by_hand():
    weight = np.array([[254.0, -254.0, 1.2, 2.9, 0.0], [0.5, 0.25, -0.125, 0.0, 0.0]])
    values, scales, _ = quantize_rows(weight)
    assert scales.tolist() == [[2.0], [0.5 / 127]]
    assert values.tolist() == [[127, -127, 1, 1, 0], [127, 64, -32, 0, 0]]      # 63.5 and -31.75 are rounded


def test_four_bits_that_can_be_computed_by_hand():
    values, scales, offsets = quantize_groups(np.array([[-3.0, 12.0, 1.2, 0.4, 7.5, 7.5, 8.0, 7.0]]), 4, 4)
    assert scales.tolist() == [[1.0, 1 / 15]]
    assert offsets.tolist() == [[-3.0, 7.0]]
    assert values.tolist() == [[0 + 15 * 16, 4 + 3 * 16, 8 + 8 * 16, 15 + 0 * 16]]      # 7.5 above 7: 7.5 goes to 8


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_of_zeros_stays_zero_beside_others(dtype):
    weight = quantize_rows(np.array([[0, 0], [3, -1.5]], dtype))
    assert weight.scales.dtype == dtype
    assert weight.values.tolist() == [[0, 0], [127, -64]]
    assert dequantize(weight, slice(None))[0].tolist() == [0, 0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_group_of_equal_weights_is_exact_with_four_bits(dtype):
    weight = np.array([[0, 0, 0.3, 0.3], [-7.1, -7.1, 1, 2]], dtype)
    quantized = quantize_groups(weight, 4, 2)
    assert quantized.scales.dtype == quantized.offsets.dtype == dtype
    np.testing.assert_array_equal(dequantize(quantized, slice(None))[:, :2], weight[:, :2])
    np.testing.assert_array_equal(dequantize(quantized, slice(None))[0], weight[0])


def test_the_smallest_numbers_do_not_overflow():
    # 190 and 7 times the smallest number: 190 / 127 is rounded to 1, and 190 / 1 is no int8.
    values, scales, _ = quantize_rows(np.array([[2.66e-43, -1e-44], [1e-45, 0]], np.float32))
    assert values.tolist() == [[127, -7], [0, 0]]
    assert np.isfinite(scales).all()
    # And 38 times: 38 / 15 is rounded to 3, 22 / 15 to 1, and 22 / 1 is more than four bits.
    values, scales, _ = quantize_groups(np.array([[5.3e-44, 0, 3.1e-44, 0]], np.float32), 4, 2)
    assert values.tolist() == [[13, 15]]


@pytest.mark.parametrize("arguments, message", [
    ((5, 2), "bits: expected 4 or 8, got 5"), ((4, 4), "group_size: expected a divisor of the 6 columns, got 4"),
    ((8, 0), "group_size: expected a divisor of the 6 columns, got 0"),
    ((4, 3), "group_size: expected an even number of columns for 4 bits, two a byte, got 3")])
def test_groups_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        quantize_groups(np.ones((2, 6)), *arguments)


# ---- rows of floats

@every_kind
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_become_floats_by_the_formula(ops, rng, shape, kind):
    weight = make(kind, random_weight(rng, shape, "float32"))
    expected = as_floats(weight)
    tolerance = 2.0**-22 * size_of_terms(np.eye(shape[1]), weight).T                    # two roundings of each weight
    for rows in (slice(None), slice(0, 1), slice(1, 5), np.array([0]), rng.integers(0, shape[0], size=(2, 3)),
                 np.zeros((0,), int)):
        floats = ops.dequantize(weight, rows)
        assert (floats.shape, floats.dtype) == (expected[rows].shape, np.float32)
        assert (np.abs(floats - expected[rows]) <= tolerance[rows]).all()


# ---- the product

@DTYPES
@every_kind
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("batch", [(1,), (3,), (2, 5), (1, 1), (0,), ()], ids=str)
def test_the_product_is_that_with_the_matrix_it_stands_for(ops, rng, shape, batch, kind, dtype, tolerance):
    weight = make(kind, random_weight(rng, shape, dtype))
    x = rng.normal(size=(*batch, shape[1])).astype(dtype)
    y = ops.quantized_linear(x, weight)
    assert (y.shape, y.dtype) == ((*batch, shape[0]), np.dtype(dtype))
    distance = np.abs(y - x.astype(np.float64) @ as_floats(weight).T)
    assert (distance <= tolerance * size_of_terms(x, weight)).all()


@every_kind
def test_the_error_of_a_product_is_within_the_bound(ops, rng, kind):
    weight, x = random_weight(rng, (50, 320)), rng.normal(size=(4, 320))
    quantized = make(kind, weight)
    error = np.abs(ops.quantized_linear(x, quantized) - x @ weight.T)                   # (N, O)
    bound = np.abs(x).reshape(4, quantized.scales.shape[1], -1).sum(axis=2) @ quantized.scales.T / 2
    assert (error <= bound).all()
    assert (error > bound / 1000).mean() > 0.8                                          # rounding is not for nothing


@pytest.mark.parametrize("batch", [(1,), (2, 3)], ids=str)
def test_parts_of_different_kinds_are_one_matrix(ops, rng, batch):
    weights = [random_weight(rng, (rows, 12)) for rows in (3, 33, 40, 5)]
    parts = [make(kind, weight) for kind, weight in zip(list(KINDS)[:3], weights, strict=False)] + [weights[3]]
    stacked, x = StackedWeight(parts), rng.normal(size=(*batch, 12))
    assert (stacked.shape, stacked.size) == ((81, 12), 81 * 12)
    assert stacked.nbytes == sum(part.nbytes for part in parts)
    expected = np.concatenate([x @ as_floats(part).T for part in parts[:3]] + [x @ weights[3].T], axis=-1)
    np.testing.assert_allclose(ops.quantized_linear(x, stacked), expected, rtol=0, atol=1e-13 * np.abs(expected).max())


@every_kind
def test_the_layout_in_memory_makes_no_difference(ops, rng, kind):
    weight, x = make(kind, rng.normal(size=(6, 20))), rng.normal(size=(3, 20))
    expected = ops.quantized_linear(x, weight)
    wide_x, wide_values = np.repeat(x, 2, axis=1)[:, ::2], np.repeat(weight.values, 2, axis=1)[:, ::2]
    read_only = weight.scales.copy()
    read_only.flags.writeable = False
    for arguments in ((wide_x, weight._replace(values=wide_values)),
                      (x, weight._replace(values=np.asfortranarray(weight.values), scales=read_only)),
                      (np.asfortranarray(x), weight._replace(values=weight.values[::-1][::-1],
                                                             scales=np.asfortranarray(weight.scales)))):
        np.testing.assert_allclose(ops.quantized_linear(*arguments), expected, rtol=0, atol=1e-13)
        np.testing.assert_allclose(ops.quantized_linear(arguments[0][:1], arguments[1]), expected[:1], atol=1e-13)


@every_kind
def test_the_arguments_are_left_unchanged(ops, rng, kind):
    weight, x = make(kind, rng.normal(size=(6, 20))), rng.normal(size=(3, 20))
    arguments = [x, *(array for array in weight if array is not None)]
    before = [argument.copy() for argument in arguments]
    ops.quantized_linear(x, weight)
    ops.dequantize(weight, slice(2, 4))
    for argument, kept in zip(arguments, before, strict=True):
        np.testing.assert_array_equal(argument, kept)


@every_kind
def test_what_is_not_a_number_stays_visible(ops, rng, kind):
    weight = make(kind, rng.normal(size=(6, 20)))
    for rows in (1, 3):
        x = rng.normal(size=(rows, 20))
        x[0, 3] = np.nan
        y = ops.quantized_linear(x, weight)
        assert np.isnan(y[0]).all()
        assert np.isfinite(y[1:]).all()


@pytest.mark.parametrize("array", ["scales", "offsets"])
def test_a_scale_or_an_offset_that_is_not_a_number_stays_visible(ops, rng, array):
    weight = make("4 bits, groups", rng.normal(size=(6, 20)))
    getattr(weight, array)[2, 1] = np.nan
    for rows in (1, 3):
        y = ops.quantized_linear(rng.normal(size=(rows, 20)), weight)
        assert np.isnan(y[:, 2]).all()
        assert np.isfinite(np.delete(y, 2, axis=1)).all()


FITTING = {"values": np.ones((5, 4), np.int8), "scales": np.ones((5, 2)), "offsets": None}


@pytest.mark.parametrize("change, error, message", [
    ({"values": np.ones((5, 4), np.int16)}, TypeError,
     "values: expected an array of int8, or uint8 for two numbers a byte, got int16"),
    ({"values": np.ones((5, 3), np.int8), "scales": np.ones((5, 1))}, ValueError,
     r"weight: expected the shape \(O, 4\), by the last dimension of x, got \(5, 3\)"),
    ({"values": np.ones((5, 4), np.uint8)}, ValueError,
     r"weight: expected the shape \(O, 4\), by the last dimension of x, got \(5, 8\)"),
    ({"values": np.ones(4, np.int8)}, ValueError, r"values: expected two dimensions, got the shape \(4,\)"),
    ({"scales": np.ones(5)}, ValueError, r"scales: expected the shape \(5, G\), .*, got \(5,\)"),
    ({"scales": np.ones((4, 1))}, ValueError, r"scales: expected the shape \(5, G\), .*, got \(4, 1\)"),
    ({"scales": np.ones((5, 0))}, ValueError, r"scales: expected the shape \(5, G\), .*, got \(5, 0\)"),
    ({"scales": np.ones((5, 3))}, ValueError, r"scales: expected the shape \(5, G\), .* 4 of a row, got \(5, 3\)"),
    ({"offsets": np.ones((5, 1))}, ValueError, r"offsets: expected the shape of scales, \(5, 2\), .* got \(5, 1\)"),
])
def test_what_does_not_fit_together_is_refused(ops, change, error, message):
    weight = QuantizedWeight(**FITTING | change)
    with pytest.raises(error, match=message):
        ops.quantized_linear(np.ones((2, 4)), weight)


# ---- mistakes that these comparisons would find

def swap_halves(weight):
    return weight._replace(values=weight.values % 16 * 16 + weight.values // 16)


MISTAKES = {
    "halves of the bytes exchanged": swap_halves, "no offsets": lambda weight: weight._replace(offsets=None),
    "scales of the next group": lambda weight: weight._replace(scales=np.roll(weight.scales, 1, axis=1)),
    "scales of the next row": lambda weight: weight._replace(scales=np.roll(weight.scales, 1, axis=0)),
    "offsets of the next group": lambda weight: weight._replace(offsets=np.roll(weight.offsets, 1, axis=1)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("rows", [1, 3])
def test_a_planted_mistake_is_found(ops, rng, mistake, rows):
    weight, x = make("4 bits, groups", rng.normal(size=(70, 96))), rng.normal(size=(rows, 96))
    expected, allowed = x @ as_floats(weight).T, 1e-13 * size_of_terms(x, weight)
    assert (np.abs(ops.quantized_linear(x, weight) - expected) <= allowed).all()
    distance = np.abs(ops.quantized_linear(x, MISTAKES[mistake](weight)) - expected)
    assert (distance > 1e6 * allowed).mean() > 0.9


# ---- elsewhere

@every_kind
def test_on_a_device_it_computes_the_same_and_transfers_nothing(rng, kind):
    weight, x = rng.normal(size=(7, 12)), rng.normal(size=(2, 3, 12))
    ids = np.array([[1, 6], [0, 1]])
    there = [strict_device.asarray(array) for array in (weight, x, ids)]
    with strict_device.counted() as transfers:
        quantized = make(kind, there[0])
        y, rows = quantized_linear(there[1], quantized), dequantize(quantized, there[2])
    assert transfers == strict_device.Transfers(uploads=0, downloads=0)
    expected = make(kind, weight)
    for received, array in zip(quantized, expected, strict=True):
        assert (received is None) == (array is None)
        if array is not None:
            np.testing.assert_array_equal(received.get(), array)
    np.testing.assert_allclose(y.get(), quantized_linear(x, expected), rtol=0, atol=1e-14)
    np.testing.assert_array_equal(rows.get(), dequantize(expected, ids))


def test_a_quantised_weight_shows_its_size_and_is_no_array():
    weight = quantize_rows(np.ones((5, 8), np.float32))
    assert (weight.shape, weight.size, weight.nbytes, weight.bits) == ((5, 8), 40, 40 + 5 * 4, 8)
    weight = quantize_groups(np.ones((5, 8), np.float32), 4, 4)
    assert (weight.shape, weight.size, weight.nbytes, weight.bits) == ((5, 8), 40, 20 + 2 * 5 * 2 * 4, 4)
    for matrix in (weight, StackedWeight([weight])):
        with pytest.raises(TypeError, match="a quantised weight: expected `dequantize` to be called"):
            np.asarray(matrix)
