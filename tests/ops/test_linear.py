import numpy as np
import pytest


@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (2, 1, 3)])
def test_any_leading_dimensions_are_rows(ops, rng, leading):
    x, weight, bias = rng.normal(size=(*leading, 4)), rng.normal(size=(5, 4)), rng.normal(size=5)
    y, cache = ops.linear_forward(x, weight, bias)
    dy = rng.normal(size=y.shape)
    dx, dweight, dbias = ops.linear_backward(dy, cache)
    assert y.shape == (*leading, 5)
    expected_y, expected_dx = np.empty_like(y), np.empty_like(x)
    expected_dweight, expected_dbias = np.zeros_like(weight), np.zeros_like(bias)
    for row in np.ndindex(leading):
        for o in range(5):
            expected_y[(*row, o)] = np.sum(weight[o] * x[row]) + bias[o]
            expected_dweight[o] += dy[(*row, o)] * x[row]
            expected_dbias[o] += dy[(*row, o)]
        expected_dx[row] = np.sum(dy[row][:, None] * weight, axis=0)
    np.testing.assert_allclose(y, expected_y, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(dweight, expected_dweight, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(dbias, expected_dbias, rtol=1e-13, atol=1e-14)


def test_without_a_bias_nothing_is_added(ops, rng):
    x, weight = rng.normal(size=(3, 4)), rng.normal(size=(5, 4))
    without, cache = ops.linear_forward(x, weight)
    zero, _ = ops.linear_forward(x, weight, np.zeros(5))
    np.testing.assert_array_equal(without, zero)
    assert ops.linear_backward(np.ones((3, 5)), cache)[2] is None


def test_sizes_that_do_not_fit_are_refused(ops, rng):
    with pytest.raises(ValueError, match="4"):
        ops.linear_forward(rng.normal(size=(3, 4)), rng.normal(size=(4, 5)))
