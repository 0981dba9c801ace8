import numpy as np
import pytest

SCORES = np.array([[0.0, np.log(3.0), 0.0], [2.0, 2.0, 2.0]])


def test_known_values(ops):
    expected = np.array([[1, 3, 1], [5 / 3, 5 / 3, 5 / 3]]) / 5
    np.testing.assert_allclose(ops.softmax_forward(SCORES)[0], expected, rtol=1e-15)
    np.testing.assert_allclose(ops.log_softmax_forward(SCORES)[0], np.log(expected), rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1, 1e4])
def test_rows_are_probabilities_for_scores_of_any_size(ops, rng, dtype, scale):
    scores = (scale * rng.normal(size=(50, 7))).astype(dtype)
    probabilities, _ = ops.softmax_forward(scores)
    logarithms, _ = ops.log_softmax_forward(scores)
    assert np.all(probabilities >= 0)
    np.testing.assert_allclose(np.sum(probabilities, axis=-1), 1, rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_allclose(np.sum(np.exp(logarithms), axis=-1), 1, rtol=16 * np.finfo(dtype).eps)


def test_log_softmax_is_finite_where_the_probability_underflows(ops):
    scores = np.array([0.0, -1e4, 5.0])
    assert ops.softmax_forward(scores)[0][1] == 0
    np.testing.assert_allclose(ops.log_softmax_forward(scores)[0], scores - 5 - np.log1p(np.exp(-5)), rtol=1e-13)


@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
def test_adding_a_number_to_a_row_changes_nothing(ops, rng, op):
    scores = rng.normal(size=(4, 5))
    forward = getattr(ops, f"{op}_forward")
    shift = np.array([[1.0], [-3.0], [1e4], [-1e4]])
    np.testing.assert_allclose(forward(scores + shift)[0], forward(scores)[0], rtol=1e-11)


@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
def test_so_the_gradient_of_a_row_sums_to_zero(ops, rng, op):
    y, cache = getattr(ops, f"{op}_forward")(rng.normal(size=(4, 5)))
    dx = getattr(ops, f"{op}_backward")(rng.normal(size=y.shape), cache)
    np.testing.assert_allclose(np.sum(dx, axis=-1), 0, atol=1e-15)
    assert np.linalg.norm(dx) > 0.1


def test_softmax_is_blind_to_a_cotangent_of_ones(ops, rng):
    """The sum of the outputs is fixed, so its gradient is zero: why `gradcheck` draws its cotangent at random."""
    y, cache = ops.softmax_forward(rng.normal(size=(4, 5)))
    np.testing.assert_allclose(ops.softmax_backward(np.ones_like(y), cache), 0, atol=1e-15)
