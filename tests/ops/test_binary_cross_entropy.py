import math

import numpy as np
import pytest


def test_sigmoid_known_values(ops):
    x = np.array([0.0, math.log(3), -math.log(3)])
    np.testing.assert_allclose(ops.sigmoid_forward(x)[0], [1 / 2, 3 / 4, 1 / 4], rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_saturates_without_a_warning(ops, dtype):
    y, cache = ops.sigmoid_forward(np.array([-1e4, -700.0, 700.0, 1e4], dtype=dtype))
    np.testing.assert_allclose(y, [0, 0, 1, 1], atol=1e-34)
    np.testing.assert_allclose(ops.sigmoid_backward(np.ones(4, dtype=dtype), cache), 0, atol=1e-34)


def test_sigmoid_is_a_softmax_over_the_scores_x_and_0(ops, rng):
    x = rng.normal(size=10)
    expected = ops.softmax_forward(np.stack([x, np.zeros(10)], axis=-1))[0][:, 0]
    np.testing.assert_allclose(ops.sigmoid_forward(x)[0], expected, rtol=1e-14)


def test_it_is_the_written_out_sum(ops, rng):
    logits, targets = 3 * rng.normal(size=(2, 3)), rng.random((2, 3))
    total, expected = 0.0, np.empty((2, 3))
    for i in np.ndindex(2, 3):
        p = 1 / (1 + math.exp(-logits[i]))
        total -= targets[i] * math.log(p) + (1 - targets[i]) * math.log(1 - p)
        expected[i] = (p - targets[i]) / 6
    loss, cache = ops.binary_cross_entropy_forward(logits, targets=targets)
    assert loss == pytest.approx(total / 6, rel=1e-14)
    np.testing.assert_allclose(ops.binary_cross_entropy_backward(np.array(2.0), cache), 2 * expected, rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("logit", "target", "expected", "slope"), [
    (1e4, 1, 0, 0), (-1e4, 0, 0, 0),            # certain and right
    (1e4, 0, 1e4, 1), (-1e4, 1, 1e4, -1),       # certain and wrong: the price grows with the logit, and never overflows
    (0, 0, math.log(2), 0.5),                   # undecided
])
def test_extreme_logits(ops, dtype, logit, target, expected, slope):
    logits, targets = np.array([logit], dtype=dtype), np.array([target], dtype=dtype)
    loss, cache = ops.binary_cross_entropy_forward(logits, targets=targets)
    assert loss == pytest.approx(expected, rel=1e-7)
    dlogits = ops.binary_cross_entropy_backward(np.array(1, dtype=dtype), cache)
    np.testing.assert_allclose(dlogits, [slope], rtol=1e-7, atol=1e-34)
