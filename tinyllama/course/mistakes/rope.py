"""Rotary position embedding, wrong: backward turns the other way, and forward and backward must pair alike."""

from tinyllama.ops.array import array_namespace
from tinyllama.ops.rope import RoPECache


def rotates_forwards(dy, cache, needs=None):
    """The gradient is turned by the angle once more instead of back."""
    cos, sin, interleaved = cache
    xp = array_namespace(dy)
    a, b = split_pairs(dy, interleaved)                                 # (..., T, D/2) each
    return join_pairs(xp, a * cos - b * sin, a * sin + b * cos, interleaved)


def treats_it_as_a_scaling(dy, cache, needs=None):
    """Each feature is multiplied by its cosine; what comes from its partner is left out."""
    cos, _, interleaved = cache
    xp = array_namespace(dy)
    a, b = split_pairs(dy, interleaved)                                 # (..., T, D/2) each
    return join_pairs(xp, a * cos, b * cos, interleaved)


def loses_a_minus(dy, cache, needs=None):
    """Both sines have a plus: a rotation has one minus, whichever way it turns."""
    cos, sin, interleaved = cache
    xp = array_namespace(dy)
    a, b = split_pairs(dy, interleaved)                                 # (..., T, D/2) each
    return join_pairs(xp, a * cos + b * sin, a * sin + b * cos, interleaved)


def swaps_cos_and_sin(dy, cache, needs=None):
    """Cosine and sine are exchanged: this turns back by a right angle less the angle."""
    cos, sin, interleaved = cache
    xp = array_namespace(dy)
    a, b = split_pairs(dy, interleaved)                                 # (..., T, D/2) each
    return join_pairs(xp, a * sin + b * cos, b * sin - a * cos, interleaved)


def pairs_halves_always(dy, cache, needs=None):
    """Backward pairs feature i with i + D/2, also where forward paired 2i with 2i + 1."""
    cos, sin, _ = cache
    xp = array_namespace(dy)
    a, b = split_pairs(dy, False)                                       # (..., T, D/2) each
    return join_pairs(xp, a * cos + b * sin, b * cos - a * sin, False)


def joins_the_halves_always(dy, cache, needs=None):
    """The pairs are taken apart as forward did, but always joined half after half, never interleaved again."""
    cos, sin, interleaved = cache
    xp = array_namespace(dy)
    a, b = split_pairs(dy, interleaved)                                 # (..., T, D/2) each
    return xp.concatenate([a * cos + b * sin, b * cos - a * sin], axis=-1)      # (..., T, D)


def uses_the_rotated_partner(dy, cache, needs=None):
    """a is replaced before b is computed, which still needs the old a."""
    cos, sin, interleaved = cache
    xp = array_namespace(dy)
    a, b = split_pairs(dy, interleaved)                                 # (..., T, D/2) each
    a = a * cos + b * sin
    b = b * cos - a * sin
    return join_pairs(xp, a, b, interleaved)


def rotates_a_rotated_partner(x, *, cos, sin, interleaved=False):
    """a is replaced before b is computed, which still needs the old a."""
    xp = array_namespace(x)
    a, b = split_pairs(x, interleaved)                                  # (..., T, D/2) each
    a = a * cos - b * sin
    b = a * sin + b * cos
    return join_pairs(xp, a, b, interleaved), RoPECache(cos, sin, interleaved)


def mixes_two_pairings(x, *, cos, sin, interleaved=False):
    """The partner comes from one pairing, but the angles are always laid out for the other: 0, 0, 1, 1, 2, 2."""
    xp = array_namespace(x)
    a, b = split_pairs(x, interleaved)                                  # (..., T, D/2) each
    partner = join_pairs(xp, -b, a, interleaved)                        # (..., T, D)
    cos_twice, sin_twice = xp.repeat(cos, 2, axis=-1), xp.repeat(sin, 2, axis=-1)       # (T, D/2) -> (T, D)
    return x * cos_twice + partner * sin_twice, RoPECache(cos, sin, interleaved)


def rotates_half_of_each_pair(x, *, cos, sin, interleaved=False):
    """Only the first feature of each pair is turned; the second stays as it was."""
    xp = array_namespace(x)
    a, b = split_pairs(x, interleaved)                                  # (..., T, D/2) each
    return join_pairs(xp, a * cos - b * sin, b, interleaved), RoPECache(cos, sin, interleaved)


def split_pairs(x, interleaved):
    """The first and the second feature of each pair: (..., T, D) -> (..., T, D/2), (..., T, D/2)."""
    half = x.shape[-1] // 2
    return (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])


def join_pairs(xp, a, b, interleaved):
    """The way back: (..., T, D/2), (..., T, D/2) -> (..., T, D)."""
    if interleaved:
        return xp.stack([a, b], axis=-1).reshape(*a.shape[:-1], -1)     # (..., T, D/2, 2) -> (..., T, D)
    return xp.concatenate([a, b], axis=-1)


MISTAKES = {
    "rope_backward": [
        (rotates_forwards, "sign"),
        (treats_it_as_a_scaling, "missing term"),
        (loses_a_minus, "sign"),
        (swaps_cos_and_sin, "wrong order"),
        (pairs_halves_always, "wrong order"),
        (joins_the_halves_always, "wrong order"),
        (uses_the_rotated_partner, "overwritten"),
    ],
    "rope_forward": [
        (rotates_a_rotated_partner, "overwritten"),
        (mixes_two_pairings, "wrong order"),
        (rotates_half_of_each_pair, "missing term"),
    ],
}
