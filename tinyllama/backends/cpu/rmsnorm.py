"""RMSNorm in one pass over each row. Formulas: `tinyllama/ops/rmsnorm.py`; derived in chapter 07."""

from typing import Any, NamedTuple

import numpy as np

from tinyllama.backends.cpu.compiling import as_matrix, contiguous, kernel, require_float
from tinyllama.ops.array import require_shape, wanted


class RMSNormCache(NamedTuple):
    """The arguments, and one number a row."""

    x: Any          # (N, D)
    weight: Any     # (D,)
    rstd: Any       # (N,)
    shape: tuple    # (..., D)


def rmsnorm_forward(x, weight, *, eps=1e-5):
    """y = n · weight,   n = x · rstd,   rstd = 1 / sqrt(mean(x²) + eps).   x: (..., D)  ->  y: (..., D), cache."""
    require_float(x, "x")
    require_shape(weight, x.shape[-1:], "weight", "a row of x")
    rows, weight = as_matrix(x), contiguous(weight, dtype=x.dtype)            # (N, D), (D,)
    y, rstd = np.empty_like(rows), np.empty(len(rows), x.dtype)
    _forward(rows, weight, x.dtype.type(eps), y, rstd)
    return y.reshape(x.shape), RMSNormCache(rows, weight, rstd, x.shape)


def rmsnorm_backward(dy, cache, needs=None):
    """Gradients of x and weight.   dy: (..., D)  ->  dx: (..., D), dweight: (D,)."""
    x, weight, rstd, shape = cache
    require_shape(dy, shape, "dy", "x")
    needs_x, needs_weight = wanted(needs, 2)
    dx, dweight = np.empty_like(x), np.zeros_like(weight)
    _backward(as_matrix(dy, x.dtype), x, weight, rstd, dx, dweight)
    return dx.reshape(shape) if needs_x else None, dweight if needs_weight else None


@kernel("(T[:, ::1], T[::1], T, T[:, ::1], T[::1])")
def _forward(x, weight, eps, y, rstd):
    rows, width = x.shape
    zero, one, count = x.dtype.type(0), x.dtype.type(1), x.dtype.type(width)
    for i in range(rows):
        total = zero
        for j in range(width):
            total += x[i, j] * x[i, j]
        rstd[i] = one / np.sqrt(total / count + eps)
        for j in range(width):
            y[i, j] = x[i, j] * rstd[i] * weight[j]


@kernel("(T[:, ::1], T[:, ::1], T[::1], T[::1], T[:, ::1], T[::1])")
def _backward(dy, x, weight, rstd, dx, dweight):
    rows, width = x.shape
    zero, count = x.dtype.type(0), x.dtype.type(width)
    for i in range(rows):
        total = zero                                        # Σ dn · x
        for j in range(width):
            total += dy[i, j] * weight[j] * x[i, j]
            dweight[j] += dy[i, j] * x[i, j] * rstd[i]
        pull = total * rstd[i] * rstd[i] / count            # mean(dn · n) · rstd, for each element of x
        for j in range(width):
            dx[i, j] = rstd[i] * (dy[i, j] * weight[j] - x[i, j] * pull)
