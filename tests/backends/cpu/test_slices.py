"""Long arrays that are shared among the cores."""

import numpy as np
import pytest

from tinyllama.backends import load_backend
from tinyllama.backends.cpu import slices
from tinyllama.backends.cpu.slices import PIECE, run_over_slices


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 10 * PIECE + 7])
@pytest.mark.parametrize("cores", [1, 2, 3, 8])
def test_the_pieces_make_up_the_whole_in_order(size, cores, monkeypatch):
    monkeypatch.setattr(slices, "cores", lambda: cores)
    bounds = run_over_slices(lambda start, stop: (start, stop), size)
    assert [i for start, stop in bounds for i in range(start, stop)] == list(range(size))
    assert len(bounds) <= cores
    assert all(start % PIECE == 0 for start, _ in bounds)
    assert len(bounds) > 1 or cores == 1 or size <= PIECE


def test_the_number_of_threads_does_not_change_a_bit(monkeypatch, rng):
    backend = load_backend("numba")
    size = 5 * PIECE + 123
    arrays = [rng.normal(size=size).astype(np.float32) for _ in range(3)] + [rng.random(size).astype(np.float32)]
    results = []
    for cores in (1, 2, 5):
        monkeypatch.setattr(slices, "cores", lambda cores=cores: cores)
        weight, gradient, m, v = (array.copy() for array in arrays)
        norm = backend.global_norm(gradient)
        backend.adamw_step(weight, gradient, m, v, step=2, learning_rate=1e-2, betas=(0.9, 0.99), eps=1e-8,
                           weight_decay=0.1, gradient_scale=1 / norm)
        results.append((norm, weight, m, v))
    for others in results[1:]:
        for received, expected in zip(others, results[0], strict=True):
            np.testing.assert_array_equal(received, expected)
