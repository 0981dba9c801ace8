"""The gradient checker: that it accepts what is right, rejects what is wrong, and says where."""

import functools

import numpy as np
import pytest

import tinyllama as tl
from tinyllama.gradients import GradientError, gradcheck, step_sweep
from tinyllama.ops import (
    OPS,
    attention_backward,
    attention_forward,
    embedding_backward,
    embedding_forward,
    linear_backward,
    linear_forward,
    rmsnorm_backward,
    rmsnorm_forward,
    softmax_backward,
    softmax_forward,
)


@pytest.fixture
def x(rng):
    return rng.normal(size=(2, 3, 4))


@pytest.fixture
def weight(rng):
    return rng.normal(1.0, 0.5, size=4)


def cube_forward(x):
    return x**3, x


def cube_backward(dy, cache, needs=None):
    return 3 * dy * cache**2


def message_of(forward, backward, *arrays, **settings):
    with pytest.raises(GradientError) as caught:
        gradcheck(forward, backward, *arrays, **settings)
    return str(caught.value)


# --- what is right ---------------------------------------------------------------------------------------------------


def test_a_right_gradient_gives_a_report_with_a_row_for_each_argument(x, weight):
    report = gradcheck(rmsnorm_forward, rmsnorm_backward, x, weight)
    assert report.function == "rmsnorm_backward"
    assert [(row.argument, row.shape) for row in report.rows] == [("x", (2, 3, 4)), ("weight", (4,))]
    for row in report.rows:
        assert row.expected == pytest.approx(row.received, rel=1e-6)
        assert row.norm > 0
        assert 0 < row.error < 1e-8
        assert 0 < row.jacobian_error < 1e-8
    assert report.error == max(max(row.error, row.jacobian_error) for row in report.rows)
    lines = str(report).splitlines()
    assert lines[0] == f"rmsnorm_backward: largest relative error {report.error:.1e}, allowed 1e-07"
    assert [line.split()[0] for line in lines[1:]] == ["argument", "x", "weight"]


def test_it_is_part_of_the_public_api():
    assert tl.gradcheck is gradcheck
    assert tl.step_sweep is step_sweep
    assert tl.GradientError is GradientError
    assert issubclass(GradientError, AssertionError)        # so that a failing check is a failing test


def test_integer_arguments_and_none_pass_through(rng):
    ids = np.array([[2, 0, 2], [5, 2, 3]])
    assert [row.argument for row in gradcheck(embedding_forward, embedding_backward, ids, rng.normal(size=(6, 4))).rows
            ] == ["weight"]
    report = gradcheck(linear_forward, linear_backward, rng.normal(size=(3, 4)), rng.normal(size=(5, 4)), None)
    assert [row.argument for row in report.rows] == ["x", "weight"]


def test_everything_is_computed_in_float64(x):
    seen = []

    def forward(x):
        seen.append(x.dtype)
        return cube_forward(x)

    report = gradcheck(forward, cube_backward, x.astype(np.float32))
    assert set(seen) == {np.dtype(np.float64)}
    assert report.error < 1e-9


def test_a_result_without_dimensions_and_a_single_number_as_argument():
    def square_forward(x):
        return np.sum(x * x), x

    def square_backward(dy, cache):
        return dy * 2 * cache

    assert gradcheck(square_forward, square_backward, np.array(3.0)).rows[0].shape == ()


def test_settings_go_to_the_forward_function(x, weight, rng):
    assert gradcheck(rmsnorm_forward, rmsnorm_backward, x, weight, eps=0.5).error < 1e-7
    q, k, v = (rng.normal(size=(1, 2, 3, 4)) for _ in range(3))
    seen = []

    @functools.wraps(attention_forward)
    def forward(*arrays, **settings):
        seen.append(settings)
        return attention_forward(*arrays, **settings)

    gradcheck(forward, attention_backward, q, k, v, causal=True, window=2)
    assert seen
    assert all(settings == {"causal": True, "window": 2} for settings in seen)


def test_large_arguments_are_checked_along_a_direction_and_not_by_their_jacobian(rng):
    report = gradcheck(cube_forward, cube_backward, rng.normal(size=400))
    assert report.rows[0].jacobian_error is None
    assert "too large" in str(report)
    assert 0 < report.error < 1e-9


# --- what is wrong ---------------------------------------------------------------------------------------------------


def with_an_error_at(index, argument=0, by=0.01):
    """rmsnorm_backward with one element of one gradient changed."""
    @functools.wraps(rmsnorm_backward)
    def backward(dy, cache, needs=None):
        gradients = rmsnorm_backward(dy, cache, needs)
        gradients[argument][index] += by
        return gradients
    return backward


@pytest.mark.parametrize(("argument", "index", "name"), [
    (0, (1, 2, 3), "x[1, 2, 3]"), (0, (0, 0, 0), "x[0, 0, 0]"), (1, (2,), "weight[2]")])
def test_one_wrong_element_is_found_and_named(x, weight, argument, index, name):
    message = message_of(rmsnorm_forward, with_an_error_at(index, argument), x, weight)
    assert f"rmsnorm_backward: the gradient of {name.partition('[')[0]} is wrong." in message
    assert f"Furthest off, of {x.size if argument == 0 else 4} elements tried: {name}, expected " in message
    words = message.split()
    expected, received = (float(words[words.index(word) + 1].rstrip(",.")) for word in ("expected", "received"))
    assert received - expected == pytest.approx(0.01, rel=1e-4)


def test_the_error_carries_its_report(x, weight):
    with pytest.raises(GradientError) as caught:
        gradcheck(rmsnorm_forward, with_an_error_at((1, 2, 3)), x, weight)
    assert str(caught.value.report) in str(caught.value)
    x_row, weight_row = caught.value.report.rows
    assert x_row.error > 1e-7 > weight_row.error
    assert caught.value.report.error == max(x_row.error, x_row.jacobian_error)


def test_an_error_in_one_element_of_a_large_argument_is_found(rng):
    def backward(dy, cache):
        gradient = cube_backward(dy, cache)
        gradient[100, 1] += 1.0
        return gradient

    message = message_of(cube_forward, backward, rng.normal(size=(200, 2)))
    assert "of 400 elements tried: x[100, 1], expected" in message


def test_of_a_very_large_argument_some_elements_are_searched(rng):
    message = message_of(cube_forward, lambda dy, cache: dy * cache**2, rng.normal(size=2000))
    assert "of 500 elements tried: x[" in message


def test_a_sum_is_blind_to_a_softmax_that_returns_zeros_and_gradcheck_is_not(x):
    def returns_zeros(dy, cache, needs=None):
        return np.zeros_like(dy)

    total_moves_by = np.sum(softmax_forward(x + 0.1 * np.arange(4))[0]) - np.sum(softmax_forward(x)[0])
    assert abs(total_moves_by) < 1e-14                      # the sum of all outputs cannot tell
    message = message_of(softmax_forward, returns_zeros, x)
    assert "returns_zeros: the gradient of x is wrong." in message
    assert "received 0.0" in message


def forgets_the_mean(dy, cache, needs=None):
    (y,) = cache
    return y * dy


def transposes(dy, cache, needs=None):
    dx, dweight = rmsnorm_backward(dy, cache)
    return np.ascontiguousarray(dx[::-1]), dweight


@pytest.mark.parametrize(("forward", "wrong"), [(softmax_forward, forgets_the_mean), (rmsnorm_forward, transposes)])
def test_classic_mistakes_are_rejected(forward, wrong, x, weight):
    arrays = (x, weight) if wrong is transposes else (x,)
    assert f"{wrong.__name__}: the gradient of x is wrong." in message_of(forward, wrong, *arrays)


def test_a_right_gradient_that_is_zero_proves_nothing(x):
    message = message_of(lambda x: (0 * x, None), lambda dy, cache: 0 * dy, x)
    assert "the gradient of x is all zeros, and so are the differences: this proves nothing" in message


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_gradient_that_is_not_finite_is_rejected(x, value):
    def backward(dy, cache):
        gradient = cube_backward(dy, cache)
        gradient[1, 2, 3] = value
        return gradient

    message = message_of(cube_forward, backward, x)
    assert "the gradient of x is wrong." in message
    assert "tried: x[1, 2, 3], expected " in message
    assert f"received {value}." in message


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_backward_that_fails_for_some_cotangents_only_is_rejected(x):
    """Right for a random dy, 0/0 where an element of dy is zero: the Jacobian is full of NaN."""
    assert "wrong" in message_of(cube_forward, lambda dy, cache: 3 * cache**2 * dy * dy / dy, x)


@pytest.mark.parametrize(("received", "message"), [
    (lambda dy: dy[..., 0], r"the gradient of x must have its shape (2, 3, 4), got the shape (2, 3)"),
    (lambda dy: np.sum(dy), r"the gradient of x must have its shape (2, 3, 4), got the shape ()"),
    (lambda dy: None, r"the gradient of x must have its shape (2, 3, 4), got None"),
    (lambda dy: (), "expected one gradient for each of x, got 0"),
    (lambda dy: (dy, dy), "expected one gradient for each of x, got 2"),
])
def test_a_gradient_of_the_wrong_form_is_rejected(x, received, message):
    def backward(dy, cache):
        return received(dy)

    assert message_of(cube_forward, backward, x) == f"backward: {message}"


def test_a_missing_gradient_is_rejected(x, weight):
    def one_of_two(dy, cache):
        return rmsnorm_backward(dy, cache)[0]

    message = message_of(rmsnorm_forward, one_of_two, x, weight)
    assert message == "one_of_two: expected one gradient for each of x, weight, got 1"


def test_a_gradient_for_an_integer_argument_is_one_too_many(rng):
    def with_a_gradient_of_ids(dy, cache):
        return np.zeros((2, 3)), embedding_backward(dy, cache)

    message = message_of(embedding_forward, with_a_gradient_of_ids, np.ones((2, 3), int), rng.normal(size=(6, 4)))
    assert "expected one gradient for each of weight, got 2" in message


def test_a_forward_function_that_changes_its_argument_is_rejected(x):
    kept = x.copy()

    def forward(x):
        x *= 2
        return x**3, x

    message = message_of(forward, cube_backward, x)
    assert message == "cube_backward: the forward function changed x, which it was given to read"
    np.testing.assert_array_equal(x, kept)                  # what it changed was a copy


def test_a_forward_function_that_changes_a_setting_is_rejected(x):
    def forward(x, *, table):
        table += 1
        return cube_forward(x)

    message = message_of(forward, cube_backward, x, table=np.zeros(3))
    assert message == "cube_backward: the forward function changed table, which it was given to read"


def test_a_backward_function_that_changes_dy_is_rejected(x):
    def backward(dy, cache):
        dy *= 3
        return dy * cache**2

    assert message_of(cube_forward, backward, x) == "backward: it changed the gradient that it was given"


def test_a_backward_function_that_changes_an_argument_through_its_cache_is_rejected(x):
    def backward(dy, cache):
        cache *= 3
        return dy * cache**2 / 3

    message = message_of(cube_forward, backward, x)
    assert message == "backward: the backward function changed x, which it was given to read"


def test_a_backward_function_that_uses_its_cache_up_is_rejected(x):
    def forward(x):
        return x**3, 3 * x**2

    def backward(dy, cache):
        cache *= dy
        return cache.copy()

    message = message_of(forward, backward, x)
    assert message.startswith("backward: called twice with the same cache, it gave two results")


@pytest.mark.parametrize("arrays", [(np.arange(3),), (None,), ()])
def test_without_a_floating_point_argument_there_is_nothing_to_check(arrays):
    with pytest.raises(TypeError, match="cube_backward: expected at least one floating-point array"):
        gradcheck(lambda *arrays: (np.zeros(3), None), cube_backward, *arrays)


# --- tolerance, step, seed -------------------------------------------------------------------------------------------


def test_the_tolerance_decides(x):
    def slightly_off(dy, cache):
        return cube_backward(dy, cache) * (1 + 1e-4)

    message_of(cube_forward, slightly_off, x)
    report = gradcheck(cube_forward, slightly_off, x, tolerance=1e-3)
    assert report.error == pytest.approx(1e-4, rel=0.5)
    assert "allowed 1e-03" in str(report)


def test_the_seed_draws_the_directions(x):
    reports = [gradcheck(cube_forward, cube_backward, x, check_seed=seed) for seed in (0, 0, 1)]
    assert reports[0] == reports[1]
    assert reports[0].rows[0].expected != pytest.approx(reports[2].rows[0].expected, rel=1e-3)


def test_a_step_that_is_too_long_truncates(x):
    message_of(cube_forward, cube_backward, x, step=0.1)
    assert gradcheck(cube_forward, cube_backward, x, step=1e-4).error < 1e-7


def test_the_error_over_the_step_is_a_u(x):
    sweep = dict(step_sweep(softmax_forward, softmax_backward, x))
    assert list(sweep) == [10.0**-e for e in range(1, 14)]
    at = [sweep[10.0**-e] for e in range(1, 14)]
    best = at[4]                                            # 1e-5
    assert at[0] > 1e3 * best
    assert at[12] > 1e3 * best
    assert at[0] / at[1] == pytest.approx(100, rel=0.1)     # truncation falls with the square of the step
    assert best < 1e-9


def test_a_sweep_of_a_wrong_gradient_stays_high(x):
    errors = [error for _, error in step_sweep(softmax_forward, forgets_the_mean, x, steps=(1e-3, 1e-5, 1e-7))]
    assert min(errors) > 1e-2


def test_a_sweep_passes_settings_on(x, weight):
    def errors(**settings):
        return step_sweep(rmsnorm_forward, rmsnorm_backward, x, weight, steps=(1e-2,), **settings)

    assert errors(eps=0.5) != errors()
    assert errors(check_seed=1) != errors()


def test_the_random_vectors_are_not_those_of_the_callers_own_generator():
    """With the same stream the cotangent would equal x, a special direction in which rmsnorm's gradient vanishes."""
    x = np.random.default_rng(0).normal(size=(2, 5, 6))
    report = gradcheck(OPS["rmsnorm_forward"], OPS["rmsnorm_backward"], x, np.ones(6), check_seed=0)
    assert report.error < 1e-9


def test_a_forward_that_returns_no_cache_is_told_so():
    with pytest.raises(GradientError, match=r"the forward function must return \(y, cache\), got ndarray"):
        gradcheck(lambda x: 2 * x, lambda dy, cache: 2 * dy, np.ones((2, 3)))
