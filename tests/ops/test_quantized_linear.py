"""Weights of int8: what they stand for, how far they are from what they were made of, and products with them."""

import numpy as np
import pytest
import strict_device

from tinyllama.ops.quantized_linear import QuantizedWeight, quantize_rows, quantized_linear

SHAPES = [(1, 1), (1, 7), (5, 1), (7, 64), (3, 65), (1025, 40), (2100, 9), (64, 2100)]      # (O, I)
DTYPES = pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-13), ("float32", 2e-6)])


def random_weight(rng, shape, dtype="float64"):
    """Rows of very different sizes."""
    return (rng.normal(size=shape) * 10.0 ** rng.uniform(-3, 3, size=(shape[0], 1))).astype(dtype)


# ---- rounding

@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_weight_moves_by_more_than_half_a_scale(rng, shape):
    weight = random_weight(rng, shape)
    values, scales = quantize_rows(weight)
    assert (values.shape, values.dtype, scales.shape, scales.dtype) == (shape, np.int8, (shape[0], 1), np.float64)
    np.testing.assert_allclose(scales, np.abs(weight).max(axis=1, keepdims=True) / 127, rtol=1e-15)
    assert (np.abs(weight - values * scales) <= scales / 2 * (1 + 1e-12)).all()
    assert (np.abs(values).max(axis=1) == 127).all()


def test_the_values_of_a_row_that_can_be_computed_by_hand():
    values, scales = quantize_rows(np.array([[254.0, -254.0, 1.2, 2.9, 0.0], [0.5, 0.25, -0.125, 0.0, 0.0]]))
    assert scales.tolist() == [[2.0], [0.5 / 127]]
    assert values.tolist() == [[127, -127, 1, 1, 0], [127, 64, -32, 0, 0]]      # 63.5 and -31.75 are rounded


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_of_zeros_stays_zero_beside_others(dtype):
    values, scales = quantize_rows(np.array([[0, 0], [3, -1.5]], dtype))
    assert scales.dtype == dtype
    assert values.tolist() == [[0, 0], [127, -64]]
    assert (values * scales)[0].tolist() == [0, 0]


def test_the_smallest_numbers_do_not_overflow():
    # 190 and 7 times the smallest number: 190 / 127 is rounded to 1, and 190 / 1 is no int8.
    values, scales = quantize_rows(np.array([[2.66e-43, -1e-44], [1e-45, 0]], np.float32))
    assert values.tolist() == [[127, -7], [0, 0]]
    assert np.isfinite(scales).all()


# ---- the product

@DTYPES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("batch", [(1,), (3,), (2, 5), (1, 1), (0,), ()], ids=str)
def test_the_product_is_that_with_the_matrix_it_stands_for(ops, rng, shape, batch, dtype, tolerance):
    values, scales = quantize_rows(random_weight(rng, shape, dtype))
    x = rng.normal(size=(*batch, shape[1])).astype(dtype)
    y = ops.quantized_linear(x, values, scales)
    weight = values * scales.astype(np.float64)
    assert (y.shape, y.dtype) == ((*batch, shape[0]), np.dtype(dtype))
    allowed = tolerance * (np.abs(x.astype(np.float64)) @ np.abs(weight).T)         # the sum of the sizes of the terms
    assert (np.abs(y - x.astype(np.float64) @ weight.T) <= allowed).all()


def test_the_error_of_a_product_is_within_the_bound(ops, rng):
    weight, x = random_weight(rng, (50, 300)), rng.normal(size=(4, 300))
    values, scales = quantize_rows(weight)
    error = np.abs(ops.quantized_linear(x, values, scales) - x @ weight.T)          # (N, O)
    bound = np.abs(x).sum(axis=1, keepdims=True) * scales.T / 2                     # (N, 1) · (1, O)
    assert (error <= bound).all()
    assert (error > bound / 1000).mean() > 0.8                                      # rounding is not for nothing


def test_the_layout_in_memory_makes_no_difference(ops, rng):
    values, scales = quantize_rows(rng.normal(size=(6, 10)))
    x = rng.normal(size=(3, 10))
    expected = ops.quantized_linear(x, values, scales)
    wide_x, wide_values = np.repeat(x, 2, axis=1)[:, ::2], np.repeat(values, 2, axis=1)[:, ::2]
    read_only = scales.copy()
    read_only.flags.writeable = False
    for arguments in ((wide_x, wide_values, scales), (x, np.asfortranarray(values), read_only),
                      (np.asfortranarray(x), values[::-1][::-1], np.repeat(scales, 2, axis=1)[:, :1])):
        np.testing.assert_allclose(ops.quantized_linear(*arguments), expected, rtol=0, atol=1e-13)
        np.testing.assert_allclose(ops.quantized_linear(arguments[0][:1], *arguments[1:]), expected[:1], atol=1e-13)


def test_the_arguments_are_left_unchanged(ops, rng):
    values, scales = quantize_rows(rng.normal(size=(6, 10)))
    arguments = rng.normal(size=(3, 10)), values, scales
    before = [argument.copy() for argument in arguments]
    ops.quantized_linear(*arguments)
    for argument, kept in zip(arguments, before, strict=True):
        np.testing.assert_array_equal(argument, kept)


def test_what_is_not_a_number_stays_visible(ops, rng):
    values, scales = quantize_rows(rng.normal(size=(6, 10)))
    for rows in (1, 3):
        x = rng.normal(size=(rows, 10))
        x[0, 3] = np.nan
        assert np.isnan(ops.quantized_linear(x, values, scales)[0]).all()


@pytest.mark.parametrize("change, error, message", [
    ({"values": np.ones((5, 4), np.int16)}, TypeError, "values: expected an array of int8, got int16"),
    ({"values": np.ones((5, 3), np.int8)}, ValueError,
     r"values: expected the shape \(O, 4\), by the last dimension of x, got \(5, 3\)"),
    ({"values": np.ones(4, np.int8)}, ValueError, r"values: expected the shape \(O, 4\).*, got \(4,\)"),
    ({"scales": np.ones(5)}, ValueError, r"scales: expected the shape of one number .*, \(5, 1\), got \(5,\)"),
    ({"scales": np.ones((4, 1))}, ValueError, r"scales: expected the shape of .*, \(5, 1\), got \(4, 1\)"),
])
def test_what_does_not_fit_together_is_refused(ops, change, error, message):
    arguments = {"x": np.ones((2, 4)), "values": np.ones((5, 4), np.int8), "scales": np.ones((5, 1))} | change
    with pytest.raises(error, match=message):
        ops.quantized_linear(arguments["x"], arguments["values"], arguments["scales"])


def test_on_a_device_it_computes_the_same_and_transfers_nothing(rng):
    weight, x = rng.normal(size=(7, 4)), rng.normal(size=(2, 3, 4))
    there = strict_device.asarray(weight), strict_device.asarray(x)
    with strict_device.counted() as transfers:
        values, scales = quantize_rows(there[0])
        y = quantized_linear(there[1], values, scales)
    assert transfers == strict_device.Transfers(uploads=0, downloads=0)
    expected = quantize_rows(weight)
    np.testing.assert_array_equal(values.get(), expected[0])
    np.testing.assert_array_equal(scales.get(), expected[1])
    np.testing.assert_allclose(y.get(), quantized_linear(x, *expected), rtol=0, atol=1e-14)


def test_a_quantised_weight_shows_its_size_and_is_no_array():
    weight = QuantizedWeight(*quantize_rows(np.ones((5, 8), np.float32)))
    assert (weight.shape, weight.size, weight.nbytes) == ((5, 8), 40, 40 + 5 * 4)
    with pytest.raises(TypeError, match=r"a quantised weight: expected \.values and \.scales to be used"):
        np.asarray(weight)
