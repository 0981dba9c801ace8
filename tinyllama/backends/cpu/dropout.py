"""Dropout in one pass: drawn, compared and multiplied. Formulas: `tinyllama/ops/dropout.py`; derived in chapter 12."""

import math
from typing import Any, NamedTuple

import numpy as np
from numba.extending import register_jitable

from tinyllama.backends.cpu.compiling import contiguous, kernel, require_float
from tinyllama.ops.array import require_shape
from tinyllama.ops.counter_random import random_key

# The shifts and the odd numbers of the finaliser, in the order in which it uses them.
SHIFT_16, MULTIPLIER_1, SHIFT_13, MULTIPLIER_2 = map(np.uint32, (16, 0x85EBCA6B, 13, 0xC2B2AE35))


class DropoutCache(NamedTuple):
    """What was kept, one byte an element, and what it was multiplied by."""

    kept: Any       # (B, ...) booleans; None where the rate is 0
    factor: Any     # a number in the dtype of x


def dropout_forward(x, *, rate, key, first_row=0):
    """y = x · factor,   factor = 0 with probability `rate`, else 1 / (1 - rate).

    x: (B, ...)  ->  y: (B, ...), cache. The mask is that of the readable version, bit for bit. Raises ValueError unless
    0 <= rate < 1.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate: expected 0 <= rate < 1, got {rate}")
    if rate == 0:
        return x, DropoutCache(None, None)
    require_float(x, "x")
    key = random_key(*key) if isinstance(key, tuple) else key
    factor = x.dtype.type(1 / (1 - float(rate)))
    y, kept = np.empty(x.shape, x.dtype), np.empty(x.shape, np.bool_)
    rows = (len(x), math.prod(x.shape[1:]))
    _forward(contiguous(x).reshape(rows), np.uint32(key & 0xFFFFFFFF), np.uint32(key >> 32 & 0xFFFFFFFF),
             np.uint32(first_row), np.uint32(int(rate * 2**32)), factor, y.reshape(rows), kept.reshape(rows))
    return y, DropoutCache(kept, factor)


def dropout_backward(dy, cache, needs=None):
    """The gradient of x: the same elements dropped, the same factor.   dy: (B, ...)  ->  dx: (B, ...).

    Raises ValueError where dy has not the shape of x.
    """
    kept, factor = cache
    if kept is None:
        return dy
    require_shape(dy, kept.shape, "dy", "x")
    dx = np.empty(kept.shape, factor.dtype)
    _backward(contiguous(dy, factor.dtype).reshape(-1), kept.reshape(-1), factor, dx.reshape(-1))
    return dx


@kernel("(T[:, ::1], uint32, uint32, uint32, uint32, T, T[:, ::1], boolean[:, ::1])")
def _forward(x, low_key, high_key, first_row, dropped_below, factor, y, kept):
    rows, width = x.shape
    zero = x.dtype.type(0)
    for i in range(rows):
        row_hash = _mix(_mix(_mix(np.uint32(first_row + np.uint32(i))) ^ low_key) ^ high_key)
        for j in range(width):
            kept[i, j] = _mix(_mix(np.uint32(j)) ^ row_hash) >= dropped_below
        for j in range(width):
            y[i, j] = x[i, j] * (factor if kept[i, j] else zero)


@kernel("(T[::1], boolean[::1], T, T[::1])")
def _backward(dy, kept, factor, dx):
    zero = dy.dtype.type(0)
    for i in range(dy.size):
        dx[i] = dy[i] * (factor if kept[i] else zero)


@register_jitable
def _mix(h):
    """The finaliser of `counter_random`. Numba widens a product of 32 bits to 64: each is cut back."""
    h = np.uint32((h ^ (h >> SHIFT_16)) * MULTIPLIER_1)
    h = np.uint32((h ^ (h >> SHIFT_13)) * MULTIPLIER_2)
    return np.uint32(h ^ (h >> SHIFT_16))
