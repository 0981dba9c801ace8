"""Somebody else's answer: PyTorch's values and gradients in float64, stored in a file and, where installed, live."""

from pathlib import Path

import numpy as np
import pytest
from on_host import relative_error

from tinyllama.course.cases import cases

TOLERANCE = 1e-10           # relative to the largest element of the array
GOLDEN = Path(__file__).parents[1] / "golden" / "ops.npz"
EVERY_CASE = pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case.op}, {case.label}")


@pytest.fixture(scope="module")
def golden():
    """{(op, label): {"y", "dy", "gradient 0", ...}}."""
    answers = {}
    with np.load(GOLDEN) as arrays:
        for key, array in arrays.items():
            op, label, name = key.split(" | ")
            answers.setdefault((op, label), {})[name] = array
    return answers


def assert_agrees(ops, case, answer):
    y, gradients, _ = ops.run(case, answer["dy"])
    assert relative_error(y, answer["y"]) <= TOLERANCE
    # an integer argument has no gradient at all, and an optional array left out has the gradient None
    arguments = [i for i, array in enumerate(case.arrays) if array is None or array.dtype.kind == "f"]
    received = {f"gradient {i}": gradient for i, gradient in zip(arguments, gradients, strict=True)
                if gradient is not None}
    assert received.keys() == answer.keys() - {"y", "dy"}
    for name, gradient in received.items():
        assert relative_error(gradient, answer[name]) <= TOLERANCE, name


@EVERY_CASE
def test_values_and_gradients_equal_those_that_pytorch_gave(ops, case, golden):
    assert (case.op, case.label) in golden, "this case is not in the file: run tests/golden/make_ops.py"
    assert_agrees(ops, case, golden[case.op, case.label])


def test_the_file_holds_no_case_that_is_gone(golden):
    assert golden.keys() == {(case.op, case.label) for case in cases()}


@EVERY_CASE
def test_values_and_gradients_equal_those_that_pytorch_gives_now(ops, case):
    pytest.importorskip("torch", reason="PyTorch is not installed.")
    from torch_ops import torch_answer
    assert_agrees(ops, case, torch_answer(case))


def test_the_file_is_what_pytorch_gives_now(golden):
    pytest.importorskip("torch", reason="PyTorch is not installed.")
    from torch_ops import torch_answer
    for case in cases():
        answer = torch_answer(case)
        stored = golden[case.op, case.label]
        assert stored.keys() == answer.keys()
        for name, array in answer.items():
            assert relative_error(stored[name], array) <= 1e-12, f"{case.op}, {case.label}, {name}"
