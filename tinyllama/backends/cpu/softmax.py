"""Softmax, a row at a time. Formulas: `tinyllama/ops/softmax.py`; derived in chapter 05."""

import numpy as np

from tinyllama.backends.cpu.compiling import as_matrix, kernel, require_float
from tinyllama.backends.cpu.exponential import exponential
from tinyllama.backends.cpu.maximum import largest
from tinyllama.ops.array import require_shape
from tinyllama.ops.softmax import SoftmaxCache


def softmax_forward(x):
    """y = exp(x) / Σ exp(x).   x: (..., D)  ->  y: (..., D), cache."""
    require_float(x, "x")
    rows = as_matrix(x)                                                                 # (..., D) -> (N, D)
    y = np.empty(x.shape, x.dtype)
    _forward(rows, y.reshape(rows.shape))
    return y, SoftmaxCache(y)


def softmax_backward(dy, cache, needs=None):
    """The gradient of the scores.   dy: (..., D)  ->  dx: (..., D).

    Raises ValueError where dy has not the shape of x.
    """
    (y,) = cache
    require_shape(dy, y.shape, "dy", "x")
    dx = np.empty_like(y)
    rows = as_matrix(y)                                                                 # (..., D) -> (N, D)
    _backward(as_matrix(dy, y.dtype), rows, dx.reshape(rows.shape))
    return dx


@kernel("(T[:, ::1], T[:, ::1])")
def _forward(x, y):
    rows, width = x.shape
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for i in range(rows):
        highest, total = largest(x[i]), zero
        for j in range(width):
            y[i, j] = exponential(x[i, j] - highest)
            total += y[i, j]
        share = one / total
        for j in range(width):
            y[i, j] *= share


@kernel("(T[:, ::1], T[:, ::1], T[:, ::1])")
def _backward(dy, y, dx):
    rows, width = y.shape
    zero = y.dtype.type(0)
    for i in range(rows):
        total = zero
        for j in range(width):
            total += dy[i, j] * y[i, j]
        for j in range(width):
            dx[i, j] = y[i, j] * (dy[i, j] - total)
