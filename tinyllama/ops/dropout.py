"""Dropout whose mask is a function of a key, so that anyone can draw the same mask again."""

from typing import Any, NamedTuple

from tinyllama.ops.array import array_namespace
from tinyllama.ops.counter_random import random_key, random_uint32


class DropoutCache(NamedTuple):
    """What each element was multiplied by: 0 where it was dropped, 1 / (1 - rate) where it was kept."""

    factor: Any     # (B, ...)      None where the rate is 0


def dropout_forward(x, *, rate, key, first_row=0):
    """y = x · factor,   factor = 0 with probability `rate`, else 1 / (1 - rate).

    x: (B, ...)  ->  y: (B, ...), cache.

    What is kept is a hash of (key, row, position in the row), with no state: the same key gives the same mask on every
    backend, and again in every evaluation of a gradient check. A worker that holds the rows from `first_row` on draws
    for each of them what one worker with all rows would draw. Dividing by 1 - rate keeps the expected value.

    key: an integer, as `random_key` makes it, or a tuple of integers to make it from. Raises ValueError unless
    0 <= rate < 1.
    Source: Srivastava et al. 2014. Derived in chapter 12.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate: expected 0 <= rate < 1, got {rate}")
    if rate == 0:
        return x, DropoutCache(None)
    xp = array_namespace(x)
    key = random_key(*key) if isinstance(key, tuple) else key
    kept = random_uint32(xp, x.shape, key=key, first_row=first_row) >= int(rate * 2**32)    # (B, ...)
    factor = kept.astype(x.dtype) * (1 / (1 - float(rate)))                                        # (B, ...)
    return x * factor, DropoutCache(factor)


def dropout_backward(dy, cache, needs=None):
    """The gradient of x: the same elements dropped, the same factor.

    dy: (B, ...)  ->  dx: (B, ...).

        dx = dy · factor
    """
    (factor,) = cache
    return dy if factor is None else dy * factor
