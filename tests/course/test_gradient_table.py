import inspect
import itertools
import math

import pytest

from tinyllama.backends import load_backend
from tinyllama.course import gradient_table as module
from tinyllama.course.cases import cases
from tinyllama.course.gradient_table import MODELS, TableRow, gradient_table, print_gradient_table
from tinyllama.ops import DIFFERENTIABLE, OPS


@pytest.fixture(autouse=True)
def wide_screen(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(scope="module")
def rows():
    """The whole table, made once."""
    return list(gradient_table())


def with_wrong(**backwards):
    """The readable backend with some backward functions replaced by function(right gradients) -> gradients."""
    def wrong(name, change):
        def backward(dy, cache, needs=None):
            return change(OPS[name](dy, cache, needs))
        backward.__name__ = name
        return backward
    return load_backend("numpy").with_ops(**{name: wrong(name, change) for name, change in backwards.items()})


def test_every_operation_and_the_whole_model_are_in_the_table(rows):
    by_name = {name: [row.label for row in group] for name, group in itertools.groupby(rows, lambda row: row.name)}
    expected = {name: [case.label for case in cases(name)] for name in DIFFERENTIABLE}
    assert by_name == {**expected, "llama": list(MODELS)}


def test_every_gradient_is_right(rows):
    for row in rows:
        allowed = 1e-6 if row.name == "llama" else 1e-7
        assert row.allowed == allowed
        assert row.failure is None, row
        assert 0 < row.error <= allowed, row        # zero would mean that something is compared with itself
        assert row.gradients >= 1, row


def test_every_gradient_of_the_models_is_counted(rows):
    # q, k, v, o, gate, up, down and two norms a layer, the embedding and the last norm
    grouped, shared, _ = [row for row in rows if row.name == "llama"]
    assert grouped.gradients == 3 * 9 + 2
    assert shared.gradients == 2 * 9 + 2


def test_some_operations_can_be_named():
    rows = list(gradient_table(["silu", "linear"]))
    assert [row.name for row in rows] == ["silu"] + ["linear"] * len(cases("linear"))


@pytest.mark.parametrize("names", [["sillu"], ["silu", "Llama"], ["silu_forward"]])
def test_an_unknown_name_is_refused_before_anything_is_checked(names):
    with pytest.raises(ValueError, match=rf"op: expected one of embedding, linear, .*, llama, got '{names[-1]}'"):
        gradient_table(names)


def test_an_unknown_backend_is_refused_at_once():
    with pytest.raises(ValueError, match=r"backend: expected one of 'numpy'.*, got 'abacus'"):
        gradient_table(["silu"], backend="abacus")


def test_rows_come_as_they_are_found(monkeypatch):
    checked = []
    original = module.gradcheck

    def spy(forward, backward, *arrays, **settings):
        checked.append(backward.__name__)
        return original(forward, backward, *arrays, **settings)

    monkeypatch.setattr(module, "gradcheck", spy)
    rows = gradient_table(["relu", "silu"])
    assert inspect.isgenerator(rows) or iter(rows) is rows
    assert next(rows).name == "relu"
    assert checked == ["relu_backward"]


def test_a_wrong_operation_is_a_failure_with_its_message_and_the_others_stay_right():
    backend = with_wrong(silu_backward=lambda dx: 1.01 * dx)
    wrong, right = gradient_table(["silu", "gelu"], backend=backend)
    assert wrong.name == "silu"
    assert wrong.error == pytest.approx(0.01, rel=0.1)
    assert "silu_backward: the gradient of x is wrong" in wrong.failure
    assert "expected" in wrong.failure
    assert "received" in wrong.failure
    assert right.failure is None


def test_a_wrong_operation_is_found_in_the_whole_model():
    backend = with_wrong(rmsnorm_backward=lambda gradients: (gradients[0], 2 * gradients[1]))
    grouped, shared, gpt2 = gradient_table(["llama"], backend=backend)
    for row in (grouped, shared):
        assert "Llama: the gradient of model." in row.failure
        assert "norm" in row.failure.splitlines()[0]
        assert row.error > 0.1
    assert gpt2.failure is None         # it has LayerNorm


def test_a_gradient_of_the_wrong_form_has_no_finite_error():
    (row,) = gradient_table(["relu"], backend=with_wrong(relu_backward=lambda dx: dx[0]))
    assert (row.gradients, row.error) == (0, math.inf)
    assert "must have its shape (2, 3, 4), got the shape (3, 4)" in row.failure


def test_it_prints_a_line_for_each_function_and_returns_the_rows(capsys):
    rows = list(gradient_table(["linear", "rope"]))
    assert print_gradient_table(iter(rows)) == rows
    lines = capsys.readouterr().out.splitlines()
    for name in ("linear", "rope"):
        group = [row for row in rows if row.name == name]
        (line,) = [line for line in lines if line.strip().startswith(name)]
        cells = line.split()
        assert cells == [name, str(len(group)), str(sum(row.gradients for row in group)),
                         f"{max(row.error for row in group):.1e}", "1e-07", "right"]
    assert "WRONG" not in "".join(lines)


def test_it_prints_what_is_wrong_below_the_table(capsys):
    rows = [TableRow("silu", "(2, 3)", 1, 1e-11, 1e-7, None),
            TableRow("gelu", "[red]small[/red]", 1, 0.5, 1e-7, "gelu_backward: the gradient of x[0] is wrong"),
            TableRow("gelu", "large", 1, 1e-11, 1e-7, None)]
    assert print_gradient_table(rows) == rows
    printed = capsys.readouterr().out
    words = {line.split()[0]: line.split()[-1] for line in printed.splitlines() if line.strip()}
    assert (words["silu"], words["gelu"]) == ("right", "WRONG")
    assert printed.splitlines()[-1] == "gelu, [red]small[/red]: gelu_backward: the gradient of x[0] is wrong"
    assert "5.0e-01" in printed


def test_a_failure_that_is_longer_than_a_line_keeps_its_layout(capsys):
    failure = "gelu_backward: the gradient of x is wrong.\n  argument  " + "x" * 150 + "  1.0e-01"
    print_gradient_table([TableRow("gelu", "large", 1, 0.1, 1e-7, failure)])
    assert capsys.readouterr().out.endswith(f"gelu, large: {failure}\n")
