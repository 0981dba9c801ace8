"""Our LLaMA against what transformers computed when tests/golden/make_llama.py wrote the file: runs everywhere."""

from pathlib import Path

import llama_cases as cases
import numpy as np
import pytest

import tinyllama as tl
from tinyllama.ops.rope import rope_frequencies

GOLDEN = Path(__file__).parents[1] / "golden" / "llama.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.mark.parametrize("dtype, logits, gradients", [("float64", 1e-9, 1e-8), ("float32", 1e-4, 1e-4)])
@pytest.mark.parametrize("backend", tl.available_backends())
@pytest.mark.parametrize("case", cases.CASES)
def test_logits_loss_and_every_gradient(golden, case, backend, dtype, logits, gradients):
    expected = {name.removeprefix(f"{case}/"): value for name, value in golden.items() if name.startswith(f"{case}/")}
    cases.assert_close(cases.run(case, dtype, backend), expected, logits=logits, gradients=gradients)


def test_the_file_is_small_and_holds_these_cases_only(golden):
    assert GOLDEN.stat().st_size < 400_000
    assert {name.partition("/")[0] for name in golden} == set(cases.CASES)


def test_the_batches_have_repeated_tokens_and_ignored_targets():
    for case in cases.CASES:
        ids, targets = cases.batch(case)
        assert len(np.unique(ids)) < ids.size / 2
        assert 0 < np.count_nonzero(targets == -100) < targets.size / 2


def test_the_llama3_rotation_has_frequencies_that_stay_shrink_and_are_blended():
    c = cases.config("multi-query-llama3")
    shrunk_by = np.divide(rope_frequencies(c.head_dim, theta=c.rope_theta),
                          rope_frequencies(c.head_dim, theta=c.rope_theta, scaling=c.rope_scaling))
    np.testing.assert_allclose(shrunk_by[[0, 2, 3]], [1, 8, 8])
    assert 1.5 < shrunk_by[1] < 7.5
