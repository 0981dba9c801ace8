"""Dropout, wrong: backward drops the same elements and scales the rest by the same factor."""

from tinyllama.ops.array import array_namespace
from tinyllama.ops.counter_random import random_uint32
from tinyllama.ops.dropout import DropoutCache


def forgets_to_scale(dy, cache, needs=None):
    """The gradient is masked, but not divided by 1 - rate."""
    (factor,) = cache
    return dy if factor is None else dy * (factor > 0)


def lets_everything_through(dy, cache, needs=None):
    """The mask is not applied in backward."""
    return dy


def scales_without_the_mask(dy, cache, needs=None):
    """The gradient is divided by 1 - rate, but dropped elements get one too."""
    (factor,) = cache
    xp = array_namespace(dy)
    return dy if factor is None else dy * xp.max(factor)


def inverts_the_mask(dy, cache, needs=None):
    """The dropped elements get the gradient, and the kept ones get none."""
    (factor,) = cache
    xp = array_namespace(dy)
    return dy if factor is None else dy * (factor == 0) * xp.max(factor)


def applies_the_factor_twice(dy, cache, needs=None):
    """The mask may be applied twice without harm, but 1 / (1 - rate) may not."""
    (factor,) = cache
    return dy if factor is None else dy * factor * factor


def draws_a_second_mask(x, *, rate, key, first_row=0):
    """Backward is given another mask than the one that was applied."""
    if rate == 0:
        return x, DropoutCache(None)
    xp = array_namespace(x)
    factors = []
    for draw in (0, 1):
        random = random_uint32(xp, x.shape, key=key ^ draw, first_row=first_row)        # (B, ...)
        factors.append((random >= int(rate * 2**32)).astype(x.dtype) * (1 / (1 - rate)))
    return x * factors[1], DropoutCache(factors[0])


def does_not_scale_the_kept(x, *, rate, key, first_row=0):
    """The kept elements are not divided by 1 - rate, so that the expected value shrinks."""
    if rate == 0:
        return x, DropoutCache(None)
    xp = array_namespace(x)
    random = random_uint32(xp, x.shape, key=key, first_row=first_row)   # (B, ...)
    kept = (random >= int(rate * 2**32)).astype(x.dtype)                # (B, ...)
    return x * kept, DropoutCache(kept * (1 / (1 - rate)))


def multiplies_instead_of_dividing(x, *, rate, key, first_row=0):
    """The kept elements are multiplied by 1 - rate instead of divided by it."""
    if rate == 0:
        return x, DropoutCache(None)
    xp = array_namespace(x)
    random = random_uint32(xp, x.shape, key=key, first_row=first_row)   # (B, ...)
    kept = (random >= int(rate * 2**32)).astype(x.dtype)                # (B, ...)
    return x * kept * (1 - rate), DropoutCache(kept * (1 / (1 - rate)))


MISTAKES = {
    "dropout_backward": [
        (forgets_to_scale, "constant factor"),
        (lets_everything_through, "mask"),
        (scales_without_the_mask, "mask"),
        (inverts_the_mask, "mask"),
        (applies_the_factor_twice, "constant factor"),
    ],
    "dropout_forward": [
        (draws_a_second_mask, "mask"),
        (does_not_scale_the_kept, "constant factor"),
        (multiplies_instead_of_dividing, "constant factor"),
    ],
}
