"""The test of the tests: the gradient check rejects every mistake of the bank, and for a reason, not by a crash."""

import inspect

import numpy as np
import pytest

from tinyllama import ops
from tinyllama.backends import load_backend
from tinyllama.course.cases import cases
from tinyllama.course.mistakes import KINDS, mistakes
from tinyllama.gradients import GradientError, gradcheck

MAIN = ("embedding", "linear", "softmax", "cross_entropy", "swiglu", "rmsnorm", "layernorm", "rope", "attention")
BANK = [pytest.param(op, mistake, id=f"{mistake.function_name}-{mistake.function.__name__}")
        for op in ops.DIFFERENTIABLE for mistake in mistakes(op)]
SUBSTANTIAL = 1e-4


def right_pair(op):
    return ops.OPS[f"{op}_forward"], ops.OPS[f"{op}_backward"]


def pair_with(op, mistake):
    """The library's forward and backward, one of them replaced by the mistake."""
    return [mistake.function if right.__name__ == mistake.function_name else right for right in right_pair(op)]


def results(op, mistake, case):
    """What the mistaken function gives for the case, and what the right one gives: two lists of arrays or None.

    A backward gets a random cotangent and the cache of the library's forward.
    """
    forward, backward = right_pair(op)
    y, cache = forward(*case.arrays, **case.settings)
    if mistake.function_name.endswith("_forward"):
        return [mistake.function(*case.arrays, **case.settings)[0]], [y]
    dy = np.random.default_rng(0).normal(size=np.shape(y)).astype(y.dtype)[()]
    return [list(gradients) if isinstance(gradients, tuple) else [gradients]
            for gradients in (mistake.function(dy, cache), backward(dy, cache))]


def differ(received, expected):
    """Whether two results differ by more than rounding, in number, shape or value."""
    if len(received) != len(expected):
        return True
    for mine, right in zip(received, expected, strict=True):
        if (mine is None) != (right is None) or np.shape(mine) != np.shape(right):
            return True
        if right is not None and np.max(np.abs(mine - right)) > SUBSTANTIAL * np.max(np.abs(right)):
            return True
    return False


def rejects(op, mistake, case):
    """Whether the gradient check rejects the mistake on this case, and by more than a little."""
    try:
        gradcheck(*pair_with(op, mistake), *case.arrays, **case.settings)
    except GradientError as error:      # any other exception is a crash of the mistake, and fails the test
        if error.report is None:
            return True                 # the number of gradients or a shape is wrong
        errors = [max(row.error, row.jacobian_error or 0.0) for row in error.report.rows]
        return next(e for e in errors if not e <= error.report.tolerance) > SUBSTANTIAL
    return False


@pytest.mark.parametrize(("op", "mistake"), BANK)
def test_the_gradient_check_rejects_it(op, mistake):
    assert any(rejects(op, mistake, case) for case in cases(op))


@pytest.mark.parametrize(("op", "mistake"), BANK)
def test_it_is_the_registered_direction_that_is_wrong(op, mistake):
    assert any(differ(*results(op, mistake, case)) for case in cases(op))


@pytest.mark.parametrize(("op", "mistake"), BANK)
def test_it_can_stand_in_for_the_right_function(op, mistake):
    right = ops.OPS[mistake.function_name]
    assert inspect.signature(mistake.function) == inspect.signature(right)
    backend = load_backend("numpy").with_ops(**{mistake.function_name: mistake.function})
    assert getattr(backend, mistake.function_name) is mistake.function


@pytest.mark.parametrize(("op", "mistake"), BANK)
def test_it_runs_on_every_case_in_float32_and_changes_no_argument(op, mistake):
    for case in [case.astype(np.float32) for case in cases(op)]:
        before = [None if array is None else array.copy() for array in case.arrays]
        received, _ = results(op, mistake, case)
        assert {array.dtype for array in received if array is not None} <= {np.dtype(np.float32)}
        for array, kept in zip(case.arrays, before, strict=True):
            assert array is None or np.array_equal(array, kept)


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{case.op}-{case.label}") for case in cases()])
def test_the_right_pair_is_accepted(case):
    gradcheck(*right_pair(case.op), *case.arrays, **case.settings)


@pytest.mark.parametrize("op", ops.DIFFERENTIABLE)
def test_every_operation_has_enough_mistakes(op):
    found = mistakes(op)
    assert len(found) >= (5 if op in MAIN else 3)
    assert {mistake.function_name for mistake in found} <= {f"{op}_forward", f"{op}_backward"}
    names = [mistake.function.__name__ for mistake in found]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("op", "mistake"), BANK)
def test_it_says_what_is_wrong(op, mistake):
    assert mistake.kind in KINDS
    assert mistake.what == mistake.function.__doc__.strip()
    assert mistake.what.endswith(".")


def test_every_kind_occurs():
    assert {mistake.kind for mistake in mistakes()} == set(KINDS)


@pytest.mark.parametrize(("op", "mistake"), [param for param in BANK if param.values[1].kind == "constant factor"])
def test_a_constant_factor_is_one(op, mistake):
    """In each case, each result is the right one times a number, and at least once that number is not 1."""
    factors = []
    for case in cases(op):
        for mine, right in zip(*results(op, mistake, case), strict=True):
            if right is not None:
                factor = np.sum(mine * right) / np.sum(right * right)
                np.testing.assert_allclose(mine, factor * right, rtol=1e-10, atol=1e-12)
                factors.append(factor)
    assert np.any(np.abs(np.array(factors) - 1) > 1e-3)


def test_all_of_them_in_the_order_of_the_operations():
    assert mistakes() == [mistake for op in ops.DIFFERENTIABLE for mistake in mistakes(op)]


def test_an_unknown_operation_is_refused_by_name():
    with pytest.raises(ValueError, match=r"op: expected one of embedding, .*, dropout, got 'rmsnorm_backward'"):
        mistakes("rmsnorm_backward")
