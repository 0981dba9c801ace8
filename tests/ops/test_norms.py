import numpy as np
import pytest


@pytest.fixture
def x(rng):
    return rng.normal(3.0, 2.0, size=(4, 6))


@pytest.fixture
def weight(rng):
    return rng.normal(1.0, 0.5, size=6)


def test_rmsnorm_gives_each_row_unit_root_mean_square(ops, x):
    y, _ = ops.rmsnorm_forward(x, np.ones(6), eps=0.0)
    np.testing.assert_allclose(np.mean(y**2, axis=-1), 1, rtol=1e-14)
    np.testing.assert_allclose(y / x, np.broadcast_to(y[:, :1] / x[:, :1], x.shape), rtol=1e-14)     # only stretched


def test_layernorm_gives_each_row_mean_0_and_variance_1(ops, x):
    y, _ = ops.layernorm_forward(x, np.ones(6), eps=0.0)
    np.testing.assert_allclose(np.mean(y, axis=-1), 0, atol=1e-15)
    np.testing.assert_allclose(np.var(y, axis=-1), 1, rtol=1e-14)


def test_known_values(ops):
    row, weight, bias = np.array([[1.0, 7.0]]), np.array([2.0, 3.0]), np.array([0.5, -0.5])
    np.testing.assert_allclose(ops.rmsnorm_forward(row, weight, eps=0.0)[0], [[2 / 5, 21 / 5]], rtol=1e-15)
    np.testing.assert_allclose(ops.layernorm_forward(row, weight, bias, eps=0.0)[0], [[-1.5, 2.5]], rtol=1e-15)


@pytest.mark.parametrize("op", ["rmsnorm", "layernorm"])
def test_the_length_of_a_row_does_not_matter_and_so_its_gradient_is_at_a_right_angle(ops, x, weight, op):
    y, cache = getattr(ops, f"{op}_forward")(x, weight, eps=0.0)
    longer, _ = getattr(ops, f"{op}_forward")(1000 * x, weight, eps=0.0)
    np.testing.assert_allclose(longer, y, rtol=1e-12)
    dx = getattr(ops, f"{op}_backward")(np.cos(y), cache)[0]
    np.testing.assert_allclose(np.sum(dx * x, axis=-1), 0, atol=1e-13)
    assert np.linalg.norm(dx) > 0.1


def test_layernorm_does_not_see_a_shift_and_so_its_gradient_sums_to_zero(ops, x, weight):
    y, cache = ops.layernorm_forward(x, weight)
    np.testing.assert_allclose(ops.layernorm_forward(x + 100, weight)[0], y, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(np.sum(ops.layernorm_backward(np.cos(y), cache)[0], axis=-1), 0, atol=1e-14)


def test_rmsnorm_sees_a_shift(ops, x, weight):
    assert not np.allclose(ops.rmsnorm_forward(x + 100, weight)[0], ops.rmsnorm_forward(x, weight)[0], rtol=0.1)


@pytest.mark.parametrize("op", ["rmsnorm", "layernorm"])
def test_eps_is_added_to_the_mean_square_and_keeps_a_row_of_zeros_finite(ops, weight, op):
    y, cache = getattr(ops, f"{op}_forward")(np.zeros((1, 6)), weight, eps=0.04)
    assert not y.any()
    dx = getattr(ops, f"{op}_backward")(np.arange(6.0)[None], cache)[0]
    dn = np.arange(6.0) * weight
    centred = dn - np.mean(dn) * (op == "layernorm")
    np.testing.assert_allclose(dx, [centred / np.sqrt(0.04)], rtol=1e-14)


def test_the_gradients_of_weight_and_bias_sum_over_all_rows(ops, x, weight, rng):
    x, dy = x.reshape(2, 2, 6), rng.normal(size=(2, 2, 6))
    n, _ = ops.layernorm_forward(x, np.ones(6))
    _, cache = ops.layernorm_forward(x, weight, np.zeros(6))
    _, dweight, dbias = ops.layernorm_backward(dy, cache)
    np.testing.assert_allclose(dweight, sum(dy[b, t] * n[b, t] for b in range(2) for t in range(2)), rtol=1e-12)
    np.testing.assert_allclose(dbias, sum(dy[b, t] for b in range(2) for t in range(2)), rtol=1e-12)
