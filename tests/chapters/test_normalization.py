"""Chapter 07: its solutions are right, and wrong answers are found out."""

from pathlib import Path

import numpy as np
import pytest

from tinyllama.course.exercises import check, mine_or_reference, properties
from tinyllama.course.exercises.normalization import CHANGES, EXERCISES, NORMS, X, does_survive
from tinyllama.course.mistakes import mistakes
from tinyllama.ops import OPS

SOURCE = Path(__file__).parents[2] / "chapters" / "source" / "07_normalization.py"
PREDICTIONS = {norm: {change: does_survive(norm, change) for change in CHANGES} for norm in NORMS}


def names_of(notebook):
    """What the exercise cells define, by name; they need nothing but NumPy."""
    names = {"np": np}
    for cell in notebook.cells:
        nbgrader = cell.metadata.get("nbgrader", {})
        if cell.cell_type == "code" and nbgrader.get("solution"):
            exec(cell.source, names)
    return names


# ---- the source itself

def test_the_solutions_are_right(builder):
    names = names_of(builder.solved_edition(builder.read_source(SOURCE)))
    for exercise in EXERCISES:
        feedback = check(exercise, names[exercise])
        assert feedback.is_right, feedback


def test_the_stubs_are_not_started_and_the_library_stands_in(builder, capsys):
    names = names_of(builder.readers_edition(builder.read_source(SOURCE)))
    for exercise in EXERCISES:
        assert check(exercise, names[exercise]).status == "not started"
    assert mine_or_reference("rmsnorm_backward", names["rmsnorm_backward"]) is OPS["rmsnorm_backward"]
    assert capsys.readouterr().out == "rmsnorm_backward: the library's (yours: not started)\n"


def test_every_exercise_is_checked_in_the_notebook(builder):
    source = builder.read_source(SOURCE)
    graded = [cell for cell in source.cells if builder.is_feedback(cell)]
    assert len(graded) == len(EXERCISES) <= 4
    assert all(any(cell.source.startswith(f'check("{name}", ') for cell in graded) for name in EXERCISES)


# ---- wrong answers

def backward_mistakes():
    for op in ("rmsnorm", "layernorm"):
        for mistake in mistakes(op):
            if mistake.function_name.endswith("_backward"):
                yield pytest.param(mistake.function_name, mistake.function,
                                   id=f"{mistake.function_name}-{mistake.function.__name__}")


@pytest.mark.parametrize(("name", "answer"), list(backward_mistakes()))
def test_classic_mistakes_are_rejected_and_diagnosed(name, answer):
    feedback = check(name, answer)
    assert feedback.status == "wrong"
    assert "What fails is shape and dtype" in feedback.message or answer.__doc__.splitlines()[0] in feedback.message


def test_the_gradients_that_are_right_are_named():
    def without_weight(dy, cache):
        return OPS["rmsnorm_backward"](dy, cache._replace(weight=1.0))

    message = check("rmsnorm_backward", without_weight).message
    assert "got [[0.48, 0.024, 0.032, -0.52], [0.002, -0.194, -0.066, 0.602]]. dweight is right. You get" in message
    assert message.endswith("dx is made of dy instead of dy · weight.")


def in_float64(op):
    def backward(dy, cache, needs=None):
        gradients = OPS[f"{op}_backward"](dy, cache)
        return tuple(None if gradient is None else gradient.astype(np.float64) for gradient in gradients)
    return backward


def only_for_three_axes(dy, cache, needs=None):
    x, weight, rstd = cache
    n, dn = x * rstd, dy * weight
    return rstd * (dn - n * (dn * n).mean(-1, keepdims=True)), (dy * n).sum(axis=(0, 1))


def always_has_a_bias(dy, cache, needs=None):
    return OPS["layernorm_backward"](dy, cache._replace(has_bias=True))


def leaves_the_bias_out(dy, cache, needs=None):
    gradients = OPS["layernorm_backward"](dy, cache)
    return gradients if cache.has_bias else gradients[:2]


def writes_into_dy(dy, cache, needs=None):
    gradients = OPS["rmsnorm_backward"](dy, cache)
    dy *= cache.weight
    return gradients


def divides_by_n(dy, cache, needs=None):
    """Right, but for elements that are zero."""
    dx, dweight = OPS["rmsnorm_backward"](dy, cache)
    n = cache.x * cache.rstd
    return dx / n * n, dweight


@pytest.mark.parametrize(("name", "answer", "status", "message"), [
    ("rmsnorm_backward", in_float64("rmsnorm"), "wrong", "float32 came in, and the gradient of x is float64"),
    ("layernorm_backward", in_float64("layernorm"), "wrong", "What fails is shape and dtype"),
    ("layernorm_backward", always_has_a_bias, "wrong", "there is no bias, and its gradient must be None"),
    ("layernorm_backward", leaves_the_bias_out, "wrong", "expected one gradient for each of x, weight, bias"),
    ("rmsnorm_backward", only_for_three_axes, "wrong", "dweight should be [3.6, 3.6, 1.4, 0.4], got"),
    ("rmsnorm_backward", writes_into_dy, "wrong", "it changed the gradient that it was given"),
    ("rmsnorm_backward", divides_by_n, "wrong", "What fails is rows that are zero, constant or large"),
    ("rmsnorm_backward", lambda dy, cache: dy, "wrong", "expected a tuple of 2 gradients"),
    ("rmsnorm_backward", lambda dy, cache: None, "wrong", "got a NoneType"),
    ("rmsnorm_backward", None, "crashed", "TypeError"),
    ("layernorm_backward", OPS["rmsnorm_backward"], "crashed", "ValueError"),
])
def test_answers_of_the_wrong_form_are_rejected(name, answer, status, message):
    feedback = check(name, answer)
    assert feedback.status == status
    assert message in str(feedback)


def clipped_at_zero(x):
    return np.maximum((x * x).mean(-1, keepdims=True) - x.mean(-1, keepdims=True) ** 2, 0)


def absolute(x):
    return abs((x * x).mean(-1, keepdims=True) - x.mean(-1, keepdims=True) ** 2)


def one_pass(x):
    return (x * x).mean(-1, keepdims=True) - x.mean(-1, keepdims=True) ** 2


def one_pass_in_float64(x):
    return one_pass(x.astype(np.float64)).astype(x.dtype)


def always_float64(x):
    return x.astype(np.float64).var(-1, keepdims=True)


def divides_by_one_less(x):
    return x.var(-1, keepdims=True, ddof=1)


def of_everything(x):
    return np.full((*x.shape[:-1], 1), x.var(), x.dtype)


def without_the_axis(x):
    return x.var(-1)


def standard_deviation(x):
    return x.std(-1, keepdims=True)


def in_place(x):
    x -= x.mean(-1, keepdims=True)
    return (x * x).mean(-1, keepdims=True)


def centred_by_the_first_element(x):
    centred = x - x[..., :1]
    return (centred * centred).mean(-1, keepdims=True)


def centred_by_the_mean_of_everything(x):
    return one_pass(x - x.mean())


@pytest.mark.parametrize("answer", [
    clipped_at_zero, absolute, one_pass, one_pass_in_float64, always_float64, divides_by_one_less, of_everything,
    without_the_axis, standard_deviation, in_place, centred_by_the_first_element, centred_by_the_mean_of_everything,
])
def test_wrong_variances_are_rejected(answer):
    assert check("row_variance", answer).status == "wrong"


@pytest.mark.parametrize("answer", [
    lambda x: x.var(-1, keepdims=True),
    lambda x: ((x - x[..., :1]) ** 2).mean(-1, keepdims=True) - (x - x[..., :1]).mean(-1, keepdims=True) ** 2,
])
def test_other_right_variances_pass(answer):
    """Centring by any element of the row is as good."""
    feedback = check("row_variance", answer)
    assert feedback.is_right, feedback


def test_the_right_predictions():
    assert check("survives", PREDICTIONS).is_right
    assert PREDICTIONS["layernorm"] == {"3 * x": True, "x + 5": True, "-x": False, "one row * 10": True,
                                        "one feature * 10": False, "x / 1000": False}
    assert [change for change in CHANGES if PREDICTIONS["layernorm"][change] != PREDICTIONS["rmsnorm"][change]] == [
        "x + 5"]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("change", CHANGES)
def test_one_wrong_prediction_is_found_and_named(norm, change):
    answer = {name: dict(table) for name, table in PREDICTIONS.items()}
    answer[norm][change] = not answer[norm][change]
    feedback = check("survives", answer)
    assert feedback.status == "wrong"
    assert f"11 of 12 are right. Look again at {change!r}" in feedback.message
    assert norm not in feedback.message         # with two answers to choose from, that would give the right one away


def test_an_unfinished_table_says_where():
    feedback = check("survives", PREDICTIONS | {"rmsnorm": PREDICTIONS["rmsnorm"] | {"-x": None}})
    assert feedback.status == "wrong"
    assert "rmsnorm and '-x' is still None" in feedback.message


def test_numpys_booleans_are_as_good():
    answer = {norm: {change: np.bool(value) for change, value in table.items()} for norm, table in PREDICTIONS.items()}
    assert check("survives", answer).is_right


@pytest.mark.parametrize(("answer", "status"), [
    ({norm: dict.fromkeys(CHANGES, True) for norm in NORMS}, "wrong"),
    ({norm: dict.fromkeys(CHANGES, 1) for norm in NORMS}, "wrong"),
    (PREDICTIONS | {"rmsnorm": PREDICTIONS["layernorm"]}, "wrong"),
    ({norm: dict.fromkeys(CHANGES) for norm in NORMS}, "not started"),
    (PREDICTIONS | {"rmsnorm": dict.fromkeys(CHANGES)}, "wrong"),
    ({"rmsnorm": PREDICTIONS["rmsnorm"]}, "crashed"),
    (None, "crashed"),
])
def test_tables_that_are_wrong_or_unfinished(answer, status):
    assert check("survives", answer).status == status


def test_a_wrong_answer_does_not_spoil_the_check_for_the_next():
    assert check("rmsnorm_backward", writes_into_dy).status == "wrong"
    assert check("row_variance", in_place).status == "wrong"
    assert check("rmsnorm_backward", OPS["rmsnorm_backward"]).is_right
    assert check("row_variance", lambda x: x.var(-1, keepdims=True)).is_right


# ---- the hand example, and the interface

def test_the_hand_example_has_the_numbers_that_the_chapter_says():
    np.testing.assert_array_equal(X.mean(-1), [4, 4])
    np.testing.assert_array_equal((X * X).mean(-1), [25, 25])
    np.testing.assert_array_equal(X.var(-1), [9, 9])


def test_a_right_answer_says_what_was_checked_and_is_used(capsys):
    def mine(dy, cache, needs=None):
        return OPS["rmsnorm_backward"](dy, cache)

    assert str(check("rmsnorm_backward", mine)) == (
        "rmsnorm_backward: right. Checked: shape and dtype, the hand example, the gradient check, "
        "rows that are zero, constant or large.")
    assert mine_or_reference("rmsnorm_backward", mine) is mine
    assert capsys.readouterr().out == "rmsnorm_backward: yours\n"


def test_an_unknown_exercise_is_an_error():
    with pytest.raises(ValueError, match="expected one of rmsnorm_backward"):
        properties("rmsnorm")
