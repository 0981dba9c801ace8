"""Rotary positions, rotated and rearranged in one pass. Formulas: `tinyllama/ops/rope.py`; derived in chapter 10."""

from typing import Any, NamedTuple

import numpy as np

from tinyllama.backends.cpu.compiling import as_flat, contiguous, kernel, require_float
from tinyllama.ops import rope as readable
from tinyllama.ops.array import require_shape


class RoPECache(NamedTuple):
    """The rotation, and the shape of what was rotated."""

    cos: Any            # (T, D/2) or (B, 1, T, D/2)
    sin: Any            # the same
    interleaved: bool
    shape: tuple


def rope_forward(x, *, cos, sin, interleaved=False):
    """Rotate each pair of features by its angle.   x: (..., T, D), cos, sin: (T, D/2)  ->  y: (..., T, D), cache.

    The result is contiguous, whatever the order of x: every head lies in one piece, as attention likes it.
    """
    require_float(x, "x")
    if not _is_usual(x, cos) or not _is_usual(x, sin):      # what no model needs is left to the readable version
        return readable.rope_forward(x, cos=cos, sin=sin, interleaved=interleaved)
    y = np.empty(x.shape, x.dtype)
    _rotate_all(x, cos, sin, interleaved, y)
    return y, RoPECache(cos, sin, interleaved, x.shape)


def _is_usual(x, table):
    if x.ndim != 4 or x.size == 0 or x.shape[3] % 2:
        return False
    usual = (x.shape[2], x.shape[3] // 2)                                               # (T, D/2)
    return table.shape in (usual, (1, 1, *usual), (x.shape[0], 1, *usual))


def rope_backward(dy, cache, needs=None):
    """The rotation back.   dy: (..., T, D)  ->  dx: (..., T, D).

    In memory the heads of dx follow one another within each token, the order in which a linear layer reads them.
    """
    if isinstance(cache, readable.RoPECache):
        return readable.rope_backward(dy, cache, needs)
    cos, sin, interleaved, shape = cache
    require_shape(dy, shape, "dy", "x")
    batch, heads, length, width = dy.shape
    dx = np.empty((batch, length, heads, width), dy.dtype).transpose(0, 2, 1, 3)        # (B, H, T, D)
    _rotate_all(dy, cos, -sin, interleaved, dx)
    return dx


def _rotate_all(x, cos, sin, interleaved, y):
    """Write the rotation of x to y, both (B, H, T, D) in any order."""
    x_flat, x_strides = as_flat(x)
    y_flat, y_strides = as_flat(y)
    usual = (-1, 1, x.shape[2], x.shape[3] // 2)                                        # (B or 1, 1, T, D/2)
    cos, sin = np.broadcast_arrays(*(contiguous(table, x.dtype).reshape(usual) for table in (cos, sin)))
    cos, (sin, table_strides) = as_flat(cos)[0], as_flat(sin)
    _rotate(x.shape, x_flat, x_strides, cos, sin, table_strides, interleaved, y_flat, y_strides)


@kernel("(UniTuple(int64, 4), FLAT, T[::1], FLAT, boolean, FLAT)")
def _rotate(shape, x, x_strides, cos, sin, table_strides, interleaved, y, y_strides):
    batch, heads, length, width = shape
    half = width // 2
    for b in range(batch):
        for h in range(heads):
            for t in range(length):
                from_x = b * x_strides[0] + h * x_strides[1] + t * x_strides[2]
                to_y = b * y_strides[0] + h * y_strides[1] + t * y_strides[2]
                table = b * table_strides[0] + h * table_strides[1] + t * table_strides[2]
                source, target = x[from_x:from_x + width], y[to_y:to_y + width]
                c, s = cos[table:table + half], sin[table:table + half]
                if interleaved:
                    for i in range(half):
                        target[2 * i] = source[2 * i] * c[i] - source[2 * i + 1] * s[i]
                        target[2 * i + 1] = source[2 * i] * s[i] + source[2 * i + 1] * c[i]
                else:
                    for i in range(half):
                        target[i] = source[i] * c[i] - source[half + i] * s[i]
                        target[half + i] = source[i] * s[i] + source[half + i] * c[i]
