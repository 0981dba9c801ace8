"""The two pairings of the rotation are one, after a permutation of the rows of q and k."""

import numpy as np
import pytest

from tinyllama.formats.rotary_pairing import is_rotated, to_half_split, to_interleaved
from tinyllama.ops import linear_forward, rmsnorm_forward, rope_forward

LENGTH, HIDDEN = 5, 7


def test_of_each_head_first_the_even_features_then_the_odd_ones():
    assert to_half_split(12, 6).tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
    assert to_interleaved(12, 6).tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    assert to_half_split(2, 2).tolist() == to_interleaved(2, 2).tolist() == [0, 1]


@pytest.mark.parametrize("head_dim", [2, 4, 6, 10])
def test_there_and_back_is_where_it_was(head_dim):
    rows = np.arange(3 * head_dim)
    np.testing.assert_array_equal(rows[to_half_split(len(rows), head_dim)][to_interleaved(len(rows), head_dim)], rows)
    np.testing.assert_array_equal(rows[to_interleaved(len(rows), head_dim)][to_half_split(len(rows), head_dim)], rows)


def same(rows, head_dim):
    return np.arange(rows)


def rotated(count, head_dim, permute, interleaved, seed):
    """Heads of a projection with bias and norm, rotated: (2, count, T, D). The same numbers for the same seed."""
    draw = np.random.default_rng(seed)
    x, angles = draw.normal(size=(2, LENGTH, HIDDEN)), np.outer(np.arange(LENGTH), 0.3 ** np.arange(head_dim // 2))
    weight, bias = draw.normal(size=(count * head_dim, HIDDEN)), draw.normal(size=count * head_dim)
    norm = draw.normal(size=head_dim)
    order = permute(count * head_dim, head_dim)
    y, _ = linear_forward(x, weight[order], bias[order])                                # (2, T, count · D)
    y = y.reshape(2, LENGTH, count, head_dim).transpose(0, 2, 1, 3)                     # (2, count, T, D)
    y, _ = rmsnorm_forward(y, norm[permute(head_dim, head_dim)])
    return rope_forward(y, cos=np.cos(angles), sin=np.sin(angles), interleaved=interleaved)[0]


def scores(sizes, permute, interleaved):
    heads, key_heads, head_dim = sizes
    q = rotated(heads, head_dim, permute, interleaved, seed=1)
    k = rotated(key_heads, head_dim, permute, interleaved, seed=2)
    return q @ np.repeat(k, heads // key_heads, axis=1).swapaxes(2, 3)                  # (2, heads, T, T)


@pytest.mark.parametrize("sizes", [(4, 2, 6), (3, 3, 2), (6, 1, 10), (1, 1, 4)])
def test_the_scores_are_those_of_the_other_rotation(sizes):
    np.testing.assert_allclose(scores(sizes, to_half_split, False), scores(sizes, same, True), rtol=0, atol=1e-12)


@pytest.mark.parametrize("sizes", [(4, 2, 6), (6, 1, 10)])
@pytest.mark.parametrize("permute", [to_interleaved, same])
def test_a_wrong_permutation_gives_other_scores(sizes, permute):
    assert np.max(np.abs(scores(sizes, permute, False) - scores(sizes, same, True))) > 0.1


@pytest.mark.parametrize("count, head_dim", [(3, 6), (2, 4), (1, 10)])
def test_the_features_of_a_rotated_head_are_the_same_in_another_order(count, head_dim):
    half_split, interleaved = (rotated(count, head_dim, permute, is_interleaved, seed=1)
                               for permute, is_interleaved in ((to_half_split, False), (same, True)))
    np.testing.assert_allclose(half_split, interleaved[..., to_half_split(head_dim, head_dim)], rtol=0, atol=1e-12)


def test_only_q_and_k_are_rotated():
    layer = "model.layers.3.self_attn."
    for name in ("q_proj.weight", "k_proj.weight", "q_proj.bias", "k_proj.bias", "q_norm.weight", "k_norm.weight"):
        assert is_rotated(layer + name)
    for name in (f"{layer}v_proj.weight", f"{layer}o_proj.weight", "model.norm.weight", "lm_head.weight",
                 "model.layers.3.mlp.gate_proj.weight"):
        assert not is_rotated(name)


@pytest.mark.parametrize("permute", [to_half_split, to_interleaved])
def test_rows_that_are_no_heads(permute):
    with pytest.raises(ValueError, match="rows: expected a whole number of heads of 6 rows, got 8"):
        permute(8, 6)
    for head_dim in (0, 5, -2):
        with pytest.raises(ValueError, match=f"head_dim: expected an even number, .*, got {head_dim}"):
            permute(10, head_dim)
