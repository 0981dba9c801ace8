import math

import numpy as np
import pytest

from tinyllama.ops.rope import rope_frequencies

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 200}
PAIRINGS = pytest.mark.parametrize("interleaved", [False, True], ids=["half-split", "interleaved"])


def tables(positions, head_dim, **kwargs):
    angles = np.outer(positions, rope_frequencies(head_dim, **kwargs))      # (T, D/2)
    return {"cos": np.cos(angles), "sin": np.sin(angles)}


@PAIRINGS
def test_each_pair_is_turned_by_its_angle(ops, rng, interleaved):
    x, angles = rng.normal(size=(3, 6)), rng.normal(size=(3, 3))
    y, _ = ops.rope_forward(x, cos=np.cos(angles), sin=np.sin(angles), interleaved=interleaved)
    for t in range(3):
        for i in range(3):
            first, second = (2 * i, 2 * i + 1) if interleaved else (i, i + 3)
            turned = complex(x[t, first], x[t, second]) * complex(math.cos(angles[t, i]), math.sin(angles[t, i]))
            np.testing.assert_allclose([y[t, first], y[t, second]], [turned.real, turned.imag], rtol=1e-13)


@PAIRINGS
def test_a_rotation_keeps_lengths_and_backward_turns_back(ops, rng, interleaved):
    x = rng.normal(size=(2, 4, 5, 6))
    y, cache = ops.rope_forward(x, **tables(range(5), 6), interleaved=interleaved)
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-14)
    np.testing.assert_allclose(ops.rope_backward(y, cache), x, rtol=1e-13, atol=1e-14)
    assert not np.allclose(y, x)
    np.testing.assert_array_equal(y[:, :, 0], x[:, :, 0])       # position 0 is not turned


@PAIRINGS
def test_the_product_of_query_and_key_depends_on_their_distance_alone(ops, rng, interleaved):
    q, k = rng.normal(size=(1, 8)), rng.normal(size=(1, 8))

    def score(query_position, key_position):
        turned_q, _ = ops.rope_forward(q, **tables([query_position], 8), interleaved=interleaved)
        turned_k, _ = ops.rope_forward(k, **tables([key_position], 8), interleaved=interleaved)
        return np.sum(turned_q * turned_k)

    assert score(1007, 1003) == pytest.approx(score(4, 0), rel=1e-11)
    assert score(4, 0) != pytest.approx(score(5, 0), rel=1e-3)
    assert score(4, 0) != pytest.approx(score(0, 4), rel=1e-3)


def test_a_permutation_of_the_features_takes_one_pairing_into_the_other(ops, rng):
    x, dy = rng.normal(size=(2, 4, 5, 6)), rng.normal(size=(2, 4, 5, 6))
    to_half_split = [0, 2, 4, 1, 3, 5]          # the first of each pair, then the second of each
    y, cache = ops.rope_forward(x, **tables(range(5), 6), interleaved=True)
    permuted_y, permuted_cache = ops.rope_forward(x[..., to_half_split], **tables(range(5), 6))
    np.testing.assert_array_equal(permuted_y, y[..., to_half_split])
    permuted_dx = ops.rope_backward(dy[..., to_half_split], permuted_cache)
    np.testing.assert_array_equal(permuted_dx, ops.rope_backward(dy, cache)[..., to_half_split])


def test_an_odd_number_of_features_has_no_pairs(ops):
    with pytest.raises(ValueError, match=r"x: expected an even last dimension .* got the shape \(3, 7\)"):
        ops.rope_forward(np.zeros((3, 7)), **tables(range(3), 6))


def test_frequencies_fall_from_1_towards_1_over_theta():
    assert rope_frequencies(6, theta=1000.0) == pytest.approx([1, 0.1, 0.01], rel=1e-15)
    assert rope_frequencies(4) == pytest.approx([1, 0.01], rel=1e-15)


@pytest.mark.parametrize("key", ["rope_type", "type"])      # the second is Hugging Face's older name
def test_linear_scaling_divides_every_frequency(key):
    assert rope_frequencies(6, theta=1000.0, scaling={key: "linear", "factor": 4.0}) == pytest.approx(
        [0.25, 0.025, 0.0025], rel=1e-15)


def test_default_scaling_changes_nothing():
    assert rope_frequencies(6, scaling={"rope_type": "default"}) == rope_frequencies(6)


def test_llama3_scaling_by_hand():
    """The wavelengths are 6.28, 62.8 and 628 positions; the model was trained with 200.

    The first is shorter than 200/4 and stays. The last is longer than 200/1 and is divided by 8. The second lies
    between: it turns 3.1831 times in 200 positions, (3.1831 - 1) / (4 - 1) = 0.727699 of the way to being kept.
    """
    blended = 0.727699 * 0.1 + 0.272301 * 0.0125
    frequencies = rope_frequencies(6, theta=1000.0, scaling=LLAMA3)
    assert frequencies == pytest.approx([1, blended, 0.00125], rel=1e-6)
    assert frequencies[0] == 1


def test_llama3_scaling_in_its_three_cases():
    """By wavelength and in three branches, as the model's authors describe it, with the numbers of Llama 3.1."""
    scaling = LLAMA3 | {"original_max_position_embeddings": 8192}
    expected = []
    for frequency in rope_frequencies(128, theta=500000.0):
        wavelength = 2 * math.pi / frequency
        if wavelength < 8192 / 4:
            expected.append(frequency)
        elif wavelength > 8192 / 1:
            expected.append(frequency / 8)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            expected.append((1 - smooth) * frequency / 8 + smooth * frequency)
    received = rope_frequencies(128, theta=500000.0, scaling=scaling)
    assert received == pytest.approx(expected, rel=1e-13)
    assert 0 < sum(r != f for r, f in zip(received, rope_frequencies(128, theta=500000.0), strict=True)) < 64


@pytest.mark.parametrize("scaling", [{"rope_type": "yarn", "factor": 2.0}, {"factor": 2.0}])
def test_an_unknown_kind_of_scaling_is_refused(scaling):
    with pytest.raises(ValueError, match="rope_scaling: expected rope_type 'default', 'linear' or 'llama3', got"):
        rope_frequencies(8, scaling=scaling)


@pytest.mark.parametrize("missing", ["factor", "low_freq_factor", "high_freq_factor",
                                     "original_max_position_embeddings"])
def test_a_missing_key_of_the_scaling_is_named(missing):
    with pytest.raises(ValueError, match=f"rope_scaling: 'llama3' needs the key '{missing}'"):
        rope_frequencies(8, scaling={key: value for key, value in LLAMA3.items() if key != missing})


def test_linear_scaling_needs_its_factor():
    with pytest.raises(ValueError, match="rope_scaling: 'linear' needs the key 'factor'"):
        rope_frequencies(8, scaling={"rope_type": "linear"})


@pytest.mark.parametrize("name", ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"])
@pytest.mark.parametrize("value", [0, -2.0, None, "8", float("nan")], ids=repr)
def test_a_number_of_the_scaling_that_is_out_of_range_is_named(name, value):
    with pytest.raises(ValueError, match=f"rope_scaling: .*{name}"):
        rope_frequencies(8, scaling=LLAMA3 | {name: value})


@pytest.mark.parametrize("high", [1.0, 0.5])
def test_the_fast_and_the_slow_must_not_overlap(high):
    with pytest.raises(ValueError, match="rope_scaling: expected high_freq_factor above low_freq_factor"):
        rope_frequencies(8, scaling=LLAMA3 | {"high_freq_factor": high})
