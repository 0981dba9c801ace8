"""The sampler that does not sort draws the tokens of the one that does."""

import numpy as np
import pytest

pytest.importorskip("numba", reason="Numba is not installed.")

from tinyllama.backends import load_backend
from tinyllama.backends.cpu import sampling
from tinyllama.ops import sample as readable

SETTINGS = [{}, {"top_k": 1}, {"top_k": 0}, {"top_k": 5}, {"top_k": 40}, {"top_k": 10**6}, {"top_p": 0.5},
            {"top_p": 0.95}, {"top_p": 1e-9}, {"min_p": 0.05}, {"min_p": 1.0}, {"min_p": 1.5}, {"min_p": 1e-30},
            {"top_k": 40, "top_p": 0.9, "min_p": 0.01}]
TEMPERATURES = (1e-5, 0.1, 0.8, 3.0, 1000.0)
VOCABULARIES = (1, 2, 3, 17, 257, 3000)


@pytest.fixture
def sample():
    return load_backend("numba").sample


def logits_of(rng, size, spread, impossible):
    """(30, V) logits, some of them -inf in the second half of each row."""
    logits = spread * rng.normal(size=(30, size))
    hidden = (rng.random(logits.shape) < impossible) & (np.arange(size) > size // 2)
    return np.where(hidden, -np.inf, logits)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("size", VOCABULARIES)
def test_the_same_token_for_the_same_number(sample, rng, size, settings):
    for temperature in TEMPERATURES:
        for spread, impossible in ((1, 0.0), (10, 0.3)):
            logits, uniform = logits_of(rng, size, spread, impossible), 0.999 * rng.random((30, 1))
            uniform[0] = 0
            np.testing.assert_array_equal(sample(logits, uniform=uniform, temperature=temperature, **settings),
                                          readable(logits, uniform=uniform, temperature=temperature, **settings))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_float32_draws_a_token_beside_the_point(sample, rng, settings):
    """The token's stretch of the line, in float64, must hold the point but for what the weights' rounding moves it."""
    logits = (3 * rng.normal(size=(200, 1000))).astype(np.float32)
    uniform = rng.random((200, 1)).astype(np.float32)
    moved = 4 * 3e-7            # every weight by what exp may be wrong by, in float64 sums; the ends of the stretch too
    tokens = sample(logits, uniform=uniform, temperature=0.8, **settings)
    lower, upper = (readable(logits.astype(np.float64), uniform=np.clip(uniform + by, 0, 1 - 1e-9), temperature=0.8,
                             **settings) for by in (-moved, moved))
    place = np.argsort(np.argsort(-logits, axis=-1), axis=-1)
    received, first, last = (np.take_along_axis(place, ids[:, None], axis=-1) for ids in (tokens, lower, upper))
    assert np.all(first <= received)
    assert np.all(received <= last)
    assert np.mean(first == last) > 0.9         # or the test would allow too much


def test_many_buckets_and_few_give_the_same(sample, rng, monkeypatch):
    logits, uniform = 5 * rng.normal(size=(20, 100)), rng.random((20, 1))
    expected = readable(logits, uniform=uniform, top_p=0.9)
    # In Python: a compiled kernel keeps the numbers that it was compiled with.
    monkeypatch.setattr(sampling, "_sample", getattr(sampling._sample, "py_func", sampling._sample))
    for buckets, span in ((1, 100), (2, 100), (7, 1e-3), (1024, 100), (1024, 1e-3)):
        monkeypatch.setattr(sampling, "BUCKETS", buckets)
        monkeypatch.setattr(sampling, "SPAN", span)
        np.testing.assert_array_equal(sample(logits, uniform=uniform, top_p=0.9), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_logits_follow_one_another_in_the_order_of_their_ids(sample, dtype):
    """Each owns the beginning of its stretch of the line."""
    uniform = np.arange(8)[:, None] / 8
    assert sample(np.full((8, 8), 3, dtype), uniform=uniform).tolist() == list(range(8))
    assert sample(np.full((8, 8), 3, dtype), uniform=uniform, top_k=2).tolist() == [0] * 4 + [1] * 4
    assert sample(np.full((8, 8), 3, dtype), uniform=uniform, top_p=0.5).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_rows_that_are_no_distribution_give_what_the_readable_version_gives(sample, rng, number):
    logits, uniform = rng.normal(size=(4, 9)), rng.random((4, 1))
    logits[1, 5] = number
    logits[2] = -np.inf
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(sample(logits, uniform=uniform, top_k=3),
                                      readable(logits, uniform=uniform, top_k=3))


def test_greedy_takes_the_first_of_the_largest_and_shows_nan(sample):
    logits = np.array([[1.0, 3.0, 3.0], [1.0, np.nan, 3.0]])
    assert sample(logits, uniform=None, temperature=0).tolist() == [1, 1]


def test_no_rows_give_no_tokens(sample):
    assert sample(np.zeros((0, 5)), uniform=np.zeros((0, 1))).shape == (0,)


def test_one_number_a_row_is_needed(sample):
    with pytest.raises(ValueError, match=r"uniform: expected the shape of one number a row, \(2, 1\), got \(1, 1\)"):
        sample(np.zeros((2, 5)), uniform=np.zeros((1, 1)))


def test_a_replaced_softmax_brings_the_readable_sampler_back():
    def uniform_softmax(x):
        return np.full_like(x, 1 / x.shape[-1]), None

    mine = load_backend("numba").with_ops(softmax_forward=uniform_softmax)
    assert mine.sample(np.array([[9.0, 0.0, 0.0]]), uniform=np.array([[0.9]]))[0] != 0
