"""Rotary position embedding: turn each pair of features by an angle that grows with the position."""

import math
from typing import Any, NamedTuple

from tinyllama.ops.array import array_namespace


class RoPECache(NamedTuple):
    """The rotation alone: it is linear in x, so x is not needed."""

    cos: Any            # (T, D/2), or anything that broadcasts against (..., T, D/2)
    sin: Any            # the same
    interleaved: bool


def rope_forward(x, *, cos, sin, interleaved=False):
    """Rotate the pair (a, b) of features by its angle:  (a cos - b sin,  a sin + b cos).

    x: (..., T, D), cos, sin: (T, D/2)  ->  y: (..., T, D), cache. Where the rows of a batch stand at different
    positions, cos and sin are (B, 1, T, D/2), the 1 for the heads.

    Two pairings are in use, and they differ by a permutation of the features:
        half-split    feature i is paired with i + D/2      Hugging Face, and every model of this library
        interleaved   feature 2i is paired with 2i + 1      Meta, llama2.c, GGUF

    Raises ValueError where D is odd. Source: Su et al. 2021, section 3.2.2. Derived in chapter 10.
    """
    if x.shape[-1] % 2:
        raise ValueError(f"x: expected an even last dimension (pairs of features), got the shape {x.shape}")
    return _rotate(x, cos, sin, interleaved), RoPECache(cos, sin, interleaved)


def rope_backward(dy, cache, needs=None):
    """The gradient of x: the transpose of a rotation is the rotation back.

    dy: (..., T, D)  ->  dx: (..., T, D). For each pair, with (da', db') the gradient of the rotated one:

        (da, db) = (da' cos + db' sin,  -da' sin + db' cos)
    """
    cos, sin, interleaved = cache
    return _rotate(dy, cos, -sin, interleaved)


def _rotate(x, cos, sin, interleaved):
    xp = array_namespace(x)
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]                               # (..., T, D/2) each
        rotated = xp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1)     # (..., T, D/2, 2)
        return rotated.reshape(x.shape)                                 # (..., T, D)
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]                                 # (..., T, D/2) each
    return xp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)      # (..., T, D)


def rope_frequencies(head_dim, *, theta=10000.0, scaling=None):
    """The angle, in radians per position, by which each of the D/2 pairs turns: a list of D/2 numbers.

        frequency[i] = theta^(-2i / D)

    `scaling` stretches the context a model was trained with, and is None or a dictionary with the key "rope_type":
        "default"   no change
        "linear"    every frequency is divided by "factor"                      (Chen et al. 2023)
        "llama3"    slow pairs are divided by "factor", fast ones stay, those between are blended: with
                    turns = old · frequency / 2π, the full turns within the old context,
                    "original_max_position_embeddings", and
                    keep = clip((turns - "low_freq_factor") / ("high_freq_factor" - "low_freq_factor"), 0, 1),
                    the frequency becomes keep · frequency + (1 - keep) · frequency / factor
                                                                                (Meta's code of Llama 3.1, 2024)

    Raises ValueError for an unknown kind, a missing key, or a number out of range. Derived in chapter 10.
    """
    frequencies = [theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]
    scaling = scaling or {"rope_type": "default"}
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind == "default":
        return frequencies
    if kind == "linear":
        factor, = _positive_numbers(scaling, "factor")
        return [frequency / factor for frequency in frequencies]
    if kind == "llama3":
        return [_llama3_frequency(frequency, scaling) for frequency in frequencies]
    raise ValueError(f"rope_scaling: expected rope_type 'default', 'linear' or 'llama3', got {scaling}")


def _llama3_frequency(frequency, scaling):
    old, factor, low, high = _positive_numbers(scaling, "original_max_position_embeddings", "factor",
                                               "low_freq_factor", "high_freq_factor")
    if high <= low:
        raise ValueError(f"rope_scaling: expected high_freq_factor above low_freq_factor={low}, got {high}")
    turns = old * frequency / (2 * math.pi)
    keep = min(max((turns - low) / (high - low), 0.0), 1.0)
    return keep * frequency + (1 - keep) * frequency / factor


def _positive_numbers(scaling, *names):
    for name in names:
        if name not in scaling:
            kind = scaling.get("rope_type", scaling.get("type"))
            raise ValueError(f"rope_scaling: {kind!r} needs the key {name!r}, got {scaling}")
        if not isinstance(scaling[name], int | float) or not scaling[name] > 0:
            raise ValueError(f"rope_scaling: expected a number above 0 for {name!r}, got {scaling[name]!r}")
    return [scaling[name] for name in names]
