import math

import numpy as np
import pytest

X = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
ACTIVATIONS = ["relu", "gelu", "silu"]


def logistic(x):
    return 1 / (1 + math.exp(-x))


def test_relu_keeps_the_positive_part(ops):
    y, cache = ops.relu_forward(X)
    np.testing.assert_array_equal(y, [0, 0, 0, 1, 2])
    np.testing.assert_array_equal(ops.relu_backward(np.full(5, 7.0), cache), [0, 0, 0, 7, 7])


def test_gelu_is_close_to_x_times_the_normal_distribution(ops):
    """The form with tanh approximates x · Φ(x), to about 5e-4."""
    x = np.linspace(-6, 6, 200)
    exact = [v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x]
    np.testing.assert_allclose(ops.gelu_forward(x)[0], exact, atol=5e-4)
    assert np.max(np.abs(ops.gelu_forward(x)[0] - exact)) > 1e-4        # and is not that function itself


def test_gelu_known_values(ops):
    expected = [x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) for x in X]
    np.testing.assert_allclose(ops.gelu_forward(X)[0], expected, rtol=1e-14)
    assert ops.gelu_backward(np.ones(5), ops.gelu_forward(X)[1])[2] == 0.5      # the slope at zero


def test_silu_known_values(ops):
    y, cache = ops.silu_forward(X)
    np.testing.assert_allclose(y, [x * logistic(x) for x in X], rtol=1e-14)
    slope = [logistic(x) + x * logistic(x) * (1 - logistic(x)) for x in X]
    np.testing.assert_allclose(ops.silu_backward(np.ones(5), cache), slope, rtol=1e-14)


@pytest.mark.parametrize("op", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_far_from_zero_they_are_0_or_x(ops, op, dtype):
    x = np.array([-1e4, -100.0, 100.0, 1e4], dtype=dtype)
    y, cache = getattr(ops, f"{op}_forward")(x)
    np.testing.assert_allclose(y, [0, 0, 100, 1e4], rtol=1e-6, atol=1e-30)
    dx = getattr(ops, f"{op}_backward")(np.ones(4, dtype=dtype), cache)
    np.testing.assert_allclose(dx, [0, 0, 1, 1], rtol=1e-6, atol=1e-30)


def test_swiglu_gates_the_second_half_with_the_first(ops):
    gate, up = np.array([-1.0, 0.0, 2.0]), np.array([3.0, 5.0, -4.0])
    y, cache = ops.swiglu_forward(np.concatenate([gate, up]))
    np.testing.assert_allclose(y, [g * logistic(g) * u for g, u in zip(gate, up, strict=True)], rtol=1e-14)
    silu, silu_cache = ops.silu_forward(gate)
    dy = np.array([1.0, 2.0, 3.0])
    expected = np.concatenate([ops.silu_backward(dy * up, silu_cache), dy * silu])
    np.testing.assert_allclose(ops.swiglu_backward(dy, cache), expected, rtol=1e-14)


def test_swiglu_needs_an_even_last_dimension(ops):
    with pytest.raises(ValueError, match=r"x: expected an even last dimension .* got the shape \(2, 7\)"):
        ops.swiglu_forward(np.zeros((2, 7)))
