"""Arguments whose shapes do not fit: broadcasting would turn them into a wrong number, so they are refused by name."""

import numpy as np
import pytest

from tinyllama.ops.counter_random import random_key

SHAPES = [((3, 1), (3,)), ((3, 4), (1, 4)), ((2, 3), (6,))]


@pytest.mark.parametrize("op", ["mse", "binary_cross_entropy"])
@pytest.mark.parametrize("shape, target_shape", SHAPES)
def test_targets_of_another_shape(ops, op, shape, target_shape):
    with pytest.raises(ValueError, match=r"targets: expected the shape of \w+, "):
        getattr(ops, f"{op}_forward")(np.ones(shape), targets=np.ones(target_shape))


@pytest.mark.parametrize("target_shape", [(1,), (2,), (3, 1), (3, 4)])
def test_targets_of_cross_entropy_of_another_shape(ops, target_shape):
    with pytest.raises(ValueError, match=r"targets: expected the shape of the rows of logits, \(3,\), got"):
        ops.cross_entropy_forward(np.ones((3, 4)), targets=np.zeros(target_shape, dtype=int))


@pytest.mark.parametrize("op", ["mse", "binary_cross_entropy"])
@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_targets_of_another_dtype_do_not_widen_float32(ops, op, dtype):
    x = np.array([0.5, -1.0, 2.0], dtype=np.float32)
    loss, cache = getattr(ops, f"{op}_forward")(x, targets=np.array([0, 1, 1], dtype=dtype))
    assert loss.dtype == np.float32
    assert getattr(ops, f"{op}_backward")(np.float32(1), cache).dtype == np.float32


@pytest.mark.parametrize("tile", [0, -1])
def test_a_tile_without_rows(ops, tile):
    x = np.ones((1, 1, 2, 2))
    with pytest.raises(ValueError, match=f"tile: expected at least 1, got {tile}"):
        ops.attention_tiled_forward(x, x, x, tile=tile)


@pytest.mark.parametrize("op", ["attention", "attention_tiled"])
def test_queries_without_heads(ops, op):
    x = np.ones((1, 1, 2, 2))
    with pytest.raises(ValueError, match=r"q: expected \(B, H, Tq, D\), got \(2, 2\)"):
        getattr(ops, f"{op}_forward")(x[0, 0], x, x)


@pytest.mark.parametrize("op", ["attention", "attention_tiled"])
def test_no_key_at_all(ops, op):
    x = np.ones((1, 1, 2, 2))
    with pytest.raises(ValueError, match="k: expected at least one key"):
        getattr(ops, f"{op}_forward")(x, x[:, :, :0], x[:, :, :0])


@pytest.mark.parametrize("op", ["attention", "attention_tiled"])
@pytest.mark.parametrize("name", ["query_start", "key_length"])
@pytest.mark.parametrize("value", [[2, 1], np.array([2, 1, 1]), np.array([[2], [1]]), 1.5])
def test_one_number_for_each_row(op, name, value, ops):
    x = np.ones((2, 1, 2, 2))
    with pytest.raises(ValueError, match=rf"{name}: expected a number or an array \(2,\), got"):
        getattr(ops, f"{op}_forward")(x, x, x, **{name: value})


def test_label_smoothing_out_of_range(ops):
    with pytest.raises(ValueError, match="label_smoothing: expected 0 <= label_smoothing <= 1, got 3"):
        ops.cross_entropy_forward(np.ones((2, 4)), targets=np.zeros(2, dtype=int), label_smoothing=3)


def test_the_key_of_dropout_may_be_the_numbers_that_it_is_made_of(ops):
    x = np.ones((4, 50))
    expected, _ = ops.dropout_forward(x, rate=0.5, key=random_key(1, 2, 3))
    assert np.array_equal(ops.dropout_forward(x, rate=0.5, key=(1, 2, 3))[0], expected)


def test_a_temperature_next_to_zero_is_greedy(ops):
    logits = np.array([[1.0, 3.0, 2.0]], dtype=np.float32)
    for temperature in (0, 1e-40, 1e-320):
        assert ops.sample(logits, uniform=np.float32([[0.999]]), temperature=temperature).tolist() == [1]
