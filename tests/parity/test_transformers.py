"""Our LLaMA against transformers' with the same weights: logits, loss and every gradient, by name."""

import llama_cases as cases
import pytest

pytest.importorskip("torch", reason="torch is not installed, so there is nothing live to compare with.")
pytest.importorskip("transformers", minversion="5.0",
                    reason="transformers 5 is not installed, so there is nothing live to compare with.")

import float64_transformers

pytestmark = pytest.mark.parametrize("case", cases.CASES)


def test_in_float64_throughout(case):
    with float64_transformers.in_float64():
        expected = float64_transformers.run(case)
    cases.assert_close(cases.run(case), expected, logits=1e-9, gradients=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_as_it_is(case, dtype):
    expected = float64_transformers.run(case, dtype)
    cases.assert_close(cases.run(case, dtype), expected, logits=1e-4, gradients=1e-4)
