import numpy as np
import pytest

from tinyllama.ops.counter_random import random_key, random_uint32, uniform_number

KEY = random_key(1, 2, 3)
ONES = np.ones((64, 16, 32))


def mask(ops, key, x=ONES, rate=0.4, first_row=0):
    """True where an element was kept."""
    return ops.dropout_forward(x, rate=rate, key=key, first_row=first_row)[0] != 0


@pytest.mark.parametrize("rate", [0.1, 0.4, 0.9])
def test_the_rate_is_the_fraction_that_is_dropped(ops, rate):
    dropped = 1 - np.mean(mask(ops, KEY, rate=rate))
    four_sigma = 4 * np.sqrt(rate * (1 - rate) / ONES.size)
    assert abs(dropped - rate) < four_sigma


def test_what_is_kept_is_scaled_up_so_that_the_mean_stays(ops, rng):
    x = rng.normal(1.0, 1.0, size=ONES.shape)
    y, cache = ops.dropout_forward(x, rate=0.4, key=KEY)
    kept = y != 0
    np.testing.assert_allclose(y[kept], x[kept] / 0.6, rtol=1e-15)
    assert np.mean(y) == pytest.approx(np.mean(x), abs=0.03)
    np.testing.assert_allclose(ops.dropout_backward(x, cache), y, rtol=1e-15)       # the same elements, the same factor


def test_a_rate_of_zero_changes_nothing(ops, rng):
    x = rng.normal(size=(3, 4))
    y, cache = ops.dropout_forward(x, rate=0, key=KEY)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(ops.dropout_backward(x, cache), x)


def test_the_same_key_draws_the_same_mask_and_another_key_another(ops):
    np.testing.assert_array_equal(mask(ops, KEY), mask(ops, KEY))
    for other in (random_key(1, 2, 4), random_key(2, 1, 3), KEY ^ 1, KEY ^ (1 << 63)):
        assert np.mean(mask(ops, KEY) == mask(ops, other)) == pytest.approx(0.6**2 + 0.4**2, abs=0.02)


def test_each_row_has_a_mask_of_its_own(ops):
    rows = mask(ops, KEY).reshape(len(ONES), -1)
    assert len({row.tobytes() for row in rows}) == len(rows)


def test_workers_draw_for_their_rows_what_one_worker_would(ops):
    whole = mask(ops, KEY)
    shards = [mask(ops, KEY, ONES[start:stop], first_row=start) for start, stop in ((0, 1), (1, 17), (17, 64))]
    np.testing.assert_array_equal(np.concatenate(shards), whole)


def test_float32_and_float64_draw_the_same_mask(ops):
    np.testing.assert_array_equal(mask(ops, KEY, ONES.astype(np.float32)), mask(ops, KEY))


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5])
def test_the_rate_must_leave_something(ops, rate):
    with pytest.raises(ValueError, match=f"rate: expected 0 <= rate < 1, got {rate}"):
        ops.dropout_forward(ONES, rate=rate, key=KEY)


def correlations(bits):
    """Correlation of neighbours along each axis of an array of independent bits of probability 1/2, in sigmas."""
    signs = np.where(bits, 1.0, -1.0)
    for axis in range(signs.ndim):
        for distance in (1, 2, 3, 8):
            ahead = np.take(signs, range(distance, signs.shape[axis]), axis)
            behind = np.take(signs, range(signs.shape[axis] - distance), axis)
            yield np.mean(ahead * behind) * np.sqrt(ahead.size)


@pytest.mark.parametrize("bit", [0, 7, 16, 31])
def test_keys_rows_and_positions_do_not_resemble_their_neighbours(bit):
    numbers = np.stack([random_uint32(np, (40, 50), key=random_key(0, step)) for step in range(30)])
    bits = numbers >> bit & 1                           # (keys, rows, positions)
    assert abs(np.mean(bits) - 0.5) * 2 * np.sqrt(bits.size) < 4
    assert max(map(abs, correlations(bits))) < 4
    assert max(map(abs, correlations(np.broadcast_to(numbers[:1] >> bit & 1, bits.shape)))) > 30     # it would notice


def test_one_bit_of_the_position_changes_half_of_the_bits():
    numbers = random_uint32(np, (1, 4096), key=KEY)[0]
    for distance in (1, 2, 64, 2048):
        pairs = numbers ^ numbers[np.arange(4096) ^ distance]
        assert np.mean(np.bitwise_count(pairs)) == pytest.approx(16, abs=0.2)


def test_the_integers_are_uniform():
    numbers = random_uint32(np, (100, 1000), key=KEY)
    counts, _ = np.histogram(numbers, bins=64, range=(0, 2**32))
    chi_square = np.sum((counts - 100_000 / 64)**2) / (100_000 / 64)
    assert numbers.dtype == np.uint32
    assert 30 < chi_square < 115            # 63 degrees of freedom: four sigma either way


def test_the_finalisers_are_the_published_ones():
    """First outputs of SplitMix64 from the seed 0, and MurmurHash3's finaliser of 1."""
    assert random_key(0) == 0xE220A8397B1DCDAF
    position_1 = random_uint32(np, (1, 2), key=0)[0, 1]             # row and key hash to 0: the finaliser, twice
    assert position_1 == murmur3_finaliser(murmur3_finaliser(1))
    assert murmur3_finaliser(1) == 0x514E28B7


def murmur3_finaliser(h):
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        h = (h ^ (h >> shift)) * factor % 2**32
    return h


def test_a_key_depends_on_each_number_and_on_their_order():
    keys = {random_key(a, b, c) for a in range(10) for b in range(10) for c in range(10)}
    assert len(keys) == 1000
    assert all(0 <= key < 2**64 for key in keys)
    assert random_key(-1, 5) != random_key(1, 5)        # negative numbers are as good as any


def test_uniform_numbers_are_uniform_and_below_1():
    numbers = [uniform_number(7, step) for step in range(10_000)]
    assert 0 <= min(numbers) < 0.001
    assert 0.999 < max(numbers) < 1
    assert np.mean(numbers) == pytest.approx(0.5, abs=0.0116)           # four sigma
    assert np.var(numbers) == pytest.approx(1 / 12, abs=0.003)
