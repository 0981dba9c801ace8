import math

import numpy as np
import pytest

LOGITS = np.log([0.05, 0.4, 0.1, 0.25, 0.2])         # the order is 1, 3, 4, 2, 0
JUST_BELOW_1 = 1 - 2**-53


def distribution(logits, *, temperature=1.0, top_k=None, top_p=None, min_p=None):
    """{token: probability}, most probable first: filter by filter, in lists and loops."""
    weights = {token: math.exp((z - max(logits)) / temperature) for token, z in enumerate(logits)}
    left = sorted(weights, key=weights.get, reverse=True)

    def chance(token):
        return weights[token] / sum(weights[other] for other in left)

    if top_k is not None:
        left = left[:top_k]
    if top_p is not None:
        fewest = 1
        while sum(chance(token) for token in left[:fewest]) < top_p and fewest < len(left):
            fewest += 1
        left = left[:fewest]
    if min_p is not None:
        least = min_p * chance(left[0])
        left = [token for token in left if chance(token) >= least]
    return {token: chance(token) for token in left}


def frequencies(ops, logits, count=20_000, **settings):
    """How often each token is drawn if the uniform numbers lie evenly in 0 .. 1. {token: frequency}"""
    uniform = (np.arange(count)[:, None] + 0.5) / count
    ids = ops.sample(np.broadcast_to(logits, (count, len(logits))), uniform=uniform, **settings)
    return {int(token): n / count for token, n in zip(*np.unique(ids, return_counts=True), strict=True)}


FILTERS = [{}, {"temperature": 0.5}, {"temperature": 3.0}, {"top_k": 1}, {"top_k": 3}, {"top_k": 99}, {"top_p": 0.5},
           {"top_p": 0.9}, {"top_p": 1e-9}, {"top_p": 1.0}, {"min_p": 0.3}, {"min_p": 1.0}, {"min_p": 0.0},
           {"top_k": 4, "top_p": 0.8}, {"top_k": 4, "top_p": 0.95, "min_p": 0.3, "temperature": 1.7}]


@pytest.mark.parametrize("settings", FILTERS, ids=str)
def test_tokens_are_drawn_as_often_as_the_filtered_distribution_says(ops, rng, settings):
    for logits in (LOGITS, 2 * rng.normal(size=11)):
        expected = distribution(logits, **settings)
        received = frequencies(ops, logits, **settings)
        assert received.keys() <= expected.keys()
        for token, chance in expected.items():
            assert received.get(token, 0) == pytest.approx(chance, abs=1e-4)


def test_each_filter_renormalises_what_it_leaves(ops):
    """top_k leaves 0.4, 0.25 and 0.2; of these, the first has 0.47 and the second reaches 0.76: 0.7 needs two."""
    assert frequencies(ops, LOGITS, top_k=3, top_p=0.7).keys() == {1, 3}
    assert frequencies(ops, LOGITS, top_p=0.7).keys() == {1, 3, 4}


def test_temperature_0_is_greedy(ops, rng):
    logits = rng.normal(size=(20, 7))
    np.testing.assert_array_equal(ops.sample(logits, uniform=rng.random((20, 1)), temperature=0),
                                  np.argmax(logits, axis=-1))


def test_a_temperature_near_0_is_nearly_greedy(ops, rng):
    logits = rng.normal(size=(20, 7))
    np.testing.assert_array_equal(ops.sample(logits, uniform=rng.random((20, 1)), temperature=1e-4),
                                  np.argmax(logits, axis=-1))


@pytest.mark.parametrize("settings", [{"top_k": 1}, {"top_k": 0}, {"top_p": 1e-9}, {"top_p": 0.0}, {"min_p": 1.0},
                                      {"min_p": 1.5}], ids=str)
@pytest.mark.parametrize("uniform", [0.0, 0.5, JUST_BELOW_1])
def test_the_first_token_always_stays(ops, settings, uniform):
    assert ops.sample(LOGITS[None], uniform=np.array([[uniform]]), **settings) == [1]


@pytest.mark.parametrize("settings", FILTERS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_ends_of_the_line(ops, dtype, settings):
    """0 draws the most probable token; a number just below 1 the least probable of those that the filters leave."""
    tokens = list(distribution(LOGITS, **settings))
    logits = LOGITS[None].astype(dtype)
    assert ops.sample(logits, uniform=np.array([[0.0]]), **settings) == tokens[:1]
    for uniform in (JUST_BELOW_1, 1.0):
        assert ops.sample(logits, uniform=np.array([[uniform]]), **settings) == tokens[-1:]


def test_a_token_of_no_probability_is_never_drawn(ops):
    logits = np.array([[0.0, -np.inf, 0.0, -1e5]])
    drawn = {int(ops.sample(logits, uniform=np.array([[u]]))[0]) for u in (0.0, 0.3, 0.6, JUST_BELOW_1, 1.0)}
    assert drawn == {0, 2}


def test_a_token_owns_the_beginning_of_its_stretch_and_not_the_end(ops):
    """As the numbers drawn lie in 0 .. 1 with 1 excluded, this gives each of two equal tokens exactly half of them."""
    uniform = np.array([[0.0], [0.5 - 2**-54], [0.5], [JUST_BELOW_1]])
    first, still_first, second, still_second = ops.sample(np.zeros((4, 2)), uniform=uniform)
    assert first == still_first != second == still_second


def test_each_row_has_its_own_uniform_number(ops, rng):
    logits, uniform = rng.normal(size=(50, 7)), rng.random((50, 1))
    together = ops.sample(logits, uniform=uniform, top_p=0.9)
    one_by_one = [ops.sample(logits[b:b + 1], uniform=uniform[b:b + 1], top_p=0.9)[0] for b in range(50)]
    np.testing.assert_array_equal(together, one_by_one)
    assert len(set(together.tolist())) > 3


def test_float32_logits_over_a_large_vocabulary(ops, rng):
    """Rounding of the cumulative sum must not let a number near 1 step past the end."""
    logits = rng.normal(size=(1, 50_000)).astype(np.float32)
    for uniform in (0.999999, 0.99999999, JUST_BELOW_1, 1.0):
        token = ops.sample(logits, uniform=np.array([[uniform]]))[0]
        assert 0 <= token < 50_000
        assert logits[0, token] < np.median(logits)
