"""The exercises of chapter 07, by their properties."""

import numpy as np

from tinyllama import ops
from tinyllama.course.cases import cases
from tinyllama.course.mistakes import mistakes
from tinyllama.gradients import gradcheck

# Every row has mean 4, root mean square 5 and standard deviation 3; with eps=0 all results are short fractions.
X = np.array([[5.0, -1.0, 7.0, 5.0], [3.0, 9.0, 1.0, 3.0]])            # (2, 4)
WEIGHT = np.array([1.0, 2.0, -1.0, 0.5])                                # (4,)
BIAS = np.array([0.5, 0.0, 1.0, -2.0])                                  # (4,)
DY = np.array([[3.0, 0.0, 1.0, -2.0], [1.0, 2.0, 0.0, 4.0]])            # (2, 4)

NORMS = {"layernorm": ops.layernorm_forward, "rmsnorm": ops.rmsnorm_forward}
CHANGES = {         # what is done to x of exercise 7.3, by the label that the learner reads
    "3 * x": lambda x: 3 * x,
    "x + 5": lambda x: x + 5,
    "-x": lambda x: -x,
    "one row * 10": lambda x: x * np.array([[10.0], [1.0]]),
    "one feature * 10": lambda x: x * np.array([10.0, 1.0, 1.0, 1.0]),
    "x / 1000": lambda x: x / 1000,
}


def does_survive(norm, change):
    """Whether the normalised rows stay what they were, to three digits, if `change` is done to x of order 1."""
    x = X / 4                                                           # (2, 4)
    before, after = (NORMS[norm](rows, np.ones(4))[0] for rows in (x, CHANGES[change](x)))
    return bool(np.allclose(before, after, rtol=0, atol=1e-3))


def _predictions_are_right(answer):
    expected = [(norm, change) for norm in NORMS for change in CHANGES]
    given = {(norm, change): answer[norm][change] for norm, change in expected}
    empty = [key for key, value in given.items() if value is None]
    if len(empty) == len(expected):
        raise NotImplementedError
    assert not empty, f"{empty[0][0]} and {empty[0][1]!r} is still None: every place needs True or False."
    for (norm, change), value in given.items():
        assert isinstance(value, bool | np.bool), f"{norm} and {change!r} should be True or False, got {value!r}."
    wrong = [(norm, change) for norm, change in expected if given[norm, change] != does_survive(norm, change)]
    assert not wrong, (f"{len(expected) - len(wrong)} of {len(expected)} are right. "
                       f"Look again at {wrong[0][1]!r}.")


def _has_form(op, count):
    def holds(answer):
        arrays = [array.astype(np.float32) for array in cases(op)[0].arrays]
        y, cache = ops.OPS[f"{op}_forward"](*arrays)
        gradients = answer(y, cache)
        assert isinstance(gradients, tuple | list) and len(gradients) == count, (
            f"expected a tuple of {count} gradients, one for each array that forward was given, "
            f"got {_describe(gradients)}.")
        for name, array, gradient in zip(("x", "weight", "bias"), arrays, gradients, strict=False):
            assert np.shape(gradient) == array.shape, (
                f"the gradient of {name} must have its shape {array.shape}, got {_describe(gradient)}.")
            assert gradient.dtype == array.dtype, (
                f"float32 came in, and the gradient of {name} is {gradient.dtype}.")
    return holds


def _solves_hand_example(op, arrays, expected):
    def holds(answer):
        _, cache = ops.OPS[f"{op}_forward"](*(array.copy() for array in arrays), eps=0.0)
        gradients = dict(zip(expected, answer(DY.copy(), cache), strict=True))
        right = [name for name in expected if _equal(gradients[name], expected[name])]
        for name in expected:
            assert name in right, (
                f"for x = {X.tolist()}, weight = {WEIGHT.tolist()}, eps = 0 and dy = {DY.tolist()},\n"
                f"{name} should be {_rounded(expected[name])}, got {_rounded(gradients[name])}. "
                + "".join(f"{other} is right. " for other in right)
                + _diagnosis(op, arrays, list(expected).index(name), gradients[name]))
    return holds


def _diagnosis(op, arrays, which, gradient):
    """What is wrong with the gradient number `which` of the hand example, if a classic mistake gives the same."""
    for mistake in mistakes(op):
        if mistake.function_name == f"{op}_backward":
            _, cache = ops.OPS[f"{op}_forward"](*arrays, eps=0.0)
            if _equal(gradient, mistake.function(DY, cache)[which]):
                return f"You get these numbers if this happens: {mistake.what}"
    return ""


def _equal(gradient, right):
    return np.shape(gradient) == np.shape(right) and np.allclose(gradient, right, rtol=0, atol=1e-12)


def _passes_gradcheck(op):
    def holds(answer):
        for case in cases(op):
            gradcheck(ops.OPS[f"{op}_forward"], answer, *case.arrays, **case.settings)
        if op == "layernorm":
            gradients = answer(*ops.layernorm_forward(X, WEIGHT))
            assert gradients[2] is None, "where has_bias is False, there is no bias, and its gradient must be None."
    return holds


def _stays_finite(op):
    def holds(answer):
        rows = np.array([[0.0, 0, 0, 0], [7, 7, 7, 7], [1e6, -1e6, 2e6, 1]], np.float32)     # (3, 4)
        arrays = [rows, WEIGHT.astype(np.float32), BIAS.astype(np.float32)][:3 if op == "layernorm" else 2]
        _, cache = ops.OPS[f"{op}_forward"](*arrays)
        gradients = answer(np.ones_like(rows), cache)
        for name, gradient in zip(("x", "weight", "bias"), gradients, strict=False):
            assert np.isfinite(gradient).all(), f"the gradient of {name} is not finite for x = {rows.tolist()}."
    return holds


def _variance_has_form(answer):
    for dtype in (np.float32, np.float64):
        x = np.arange(30, dtype=dtype).reshape(2, 3, 5) ** 2
        original = x.copy()
        variance = answer(x)
        assert np.shape(variance) == (2, 3, 1), (
            f"x of shape (2, 3, 5) should give (2, 3, 1), got {_describe(variance)}.")
        assert variance.dtype == dtype, f"{np.dtype(dtype)} came in, {variance.dtype} came out."
        assert np.array_equal(x, original), "it changed x, which it was given to read."


def _variance_solves_hand_example(answer):
    x = X * [[1], [2]]                                                  # (2, 4)
    variance = answer(x.copy())
    assert np.allclose(variance, [[9.0], [36.0]]), (
        f"the rows of {x.tolist()} have the variances 9 and 36, got {_rounded(variance)}.")


def _variance_survives_an_offset(answer):
    for dtype, offset in ((np.float32, 1e4), (np.float64, 1e9)):
        for signs, what in ([1, 1], "both rows"), ([1, -1], "the first row and subtracted from the second"):
            x = (X + offset * np.array(signs)[:, None]).astype(dtype)   # (2, 4), exact
            variance = answer(x)
            assert np.allclose(variance, 9.0, rtol=1e-2), (
                f"{np.dtype(dtype)}, {offset:.0e} added to {what}: the variance of both rows is still 9, "
                f"got {_rounded(variance)}.")
        constant = answer(np.full((1, 7), offset + 0.1, dtype))
        assert 0 <= constant.item() < 1e-4, (
            f"a row of seven times {offset + 0.1} varies by nothing, got {constant.item()}.")


def _rounded(array):
    return np.round(np.asarray(array, dtype=np.float64), 6).tolist()


def _describe(value):
    return f"the shape {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def _backward_properties(op, count, arrays, expected):
    return [("shape and dtype", _has_form(op, count)), ("the hand example", _solves_hand_example(op, arrays, expected)),
            ("the gradient check", _passes_gradcheck(op)), ("rows that are zero, constant or large", _stays_finite(op))]


EXERCISES = {
    "rmsnorm_backward": _backward_properties("rmsnorm", 2, (X, WEIGHT), {
        "dx": np.array([[0.57, 0.006, -0.242, -0.23], [-0.07, -0.01, -0.09, 0.13]]),
        "dweight": np.array([3.6, 3.6, 1.4, 0.4])}),
    "layernorm_backward": _backward_properties("layernorm", 3, (X, WEIGHT, BIAS), {
        "dx": np.array([[100.0, -14, -42, -44], [-10, -4, -12, 26]]) / 108,
        "dweight": np.array([2.0, 10, 3, -6]) / 3,
        "dbias": np.array([4.0, 2, 1, 2])}),
    "survives": [("your table", _predictions_are_right)],
    "row_variance": [("shape, dtype and a read-only x", _variance_has_form),
                     ("the hand example", _variance_solves_hand_example),
                     ("a large offset", _variance_survives_an_offset)],
}
