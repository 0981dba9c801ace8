"""Log-softmax, a row at a time. Formulas: `tinyllama/ops/log_softmax.py`; derived in chapter 05."""

import numpy as np

from tinyllama.backends.cpu.compiling import as_matrix, kernel, require_float
from tinyllama.backends.cpu.exponential import exponential
from tinyllama.backends.cpu.maximum import largest
from tinyllama.ops.array import require_shape
from tinyllama.ops.log_softmax import LogSoftmaxCache


def log_softmax_forward(x):
    """y = x - log Σ exp(x).   x: (..., D)  ->  y: (..., D), cache."""
    require_float(x, "x")
    rows = as_matrix(x)                                                                 # (..., D) -> (N, D)
    y = np.empty(x.shape, x.dtype)
    _forward(rows, y.reshape(rows.shape))
    return y, LogSoftmaxCache(y)


def log_softmax_backward(dy, cache, needs=None):
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
    zero = x.dtype.type(0)
    for i in range(rows):
        highest, total = largest(x[i]), zero
        for j in range(width):
            # Kept in memory: x - (highest + log(total)), to which the compiler might change it, loses digits.
            y[i, j] = x[i, j] - highest
            total += exponential(y[i, j])
        log_total = np.log(total)
        for j in range(width):
            y[i, j] -= log_total


@kernel("(T[:, ::1], T[:, ::1], T[:, ::1])")
def _backward(dy, y, dx):
    rows, width = y.shape
    zero = y.dtype.type(0)
    for i in range(rows):
        total = zero
        for j in range(width):
            total += dy[i, j]
        for j in range(width):
            dx[i, j] = dy[i, j] - exponential(y[i, j]) * total
