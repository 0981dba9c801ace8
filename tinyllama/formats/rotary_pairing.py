"""The two pairings of the rotation: the order of the rows of q and k in a file, and in a model here.

Within a head of D features the rotation turns D/2 pairs. Pair i is made of

    half-split      the features i and i + D/2      Hugging Face, and every model of this library
    interleaved     the features 2i and 2i + 1      Meta, llama2.c, and GGUF where the architecture is llama

Row r of the weight of q makes feature r of its result. To put the rows of each head in another order is therefore to
name its features anew: with the rotation of the other pairing (ops/rope.py) the same pairs meet the same angles. A
score is a sum over the features of q and k, in which their order does not matter, as long as both have the same one.
What a head consists of is permuted with it: rows of weights, biases, and the weights of norms of q and k. v and the
input of o have no pairs and stay.

    half-split row      0  1  2  3  4  5
    interleaved row     0  2  4  1  3  5        of a head with D = 6
"""

import numpy as np


def to_half_split(rows, head_dim):
    """Which interleaved row becomes each half-split row: half_split = interleaved[to_half_split(len(interleaved), D)].

    rows: a whole number of heads of `head_dim` each (a norm of q or k has one)  ->  (rows,) integers. Raises ValueError
    where the rows are no whole heads, or a head has no whole pairs.
    """
    return _heads(rows, head_dim).reshape(-1, head_dim // 2, 2).swapaxes(1, 2).reshape(-1)      # (H, D/2, 2) -> (rows,)


def to_interleaved(rows, head_dim):
    """The way back: interleaved = half_split[to_interleaved(len(half_split), D)]. Arguments as in `to_half_split`."""
    return _heads(rows, head_dim).reshape(-1, 2, head_dim // 2).swapaxes(1, 2).reshape(-1)      # (H, 2, D/2) -> (rows,)


def is_rotated(name):
    """Whether a parameter of this Hugging Face name belongs to q or k, so that its rows have a pairing."""
    return any(f".{layer}." in name for layer in ("q_proj", "k_proj", "q_norm", "k_norm"))


def _heads(rows, head_dim):
    if head_dim < 2 or head_dim % 2:
        raise ValueError(f"head_dim: expected an even number, for pairs of features, got {head_dim}")
    if rows % head_dim:
        raise ValueError(f"rows: expected a whole number of heads of {head_dim} rows, got {rows}")
    return np.arange(rows)
