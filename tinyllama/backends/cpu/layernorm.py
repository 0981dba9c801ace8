"""LayerNorm, a row at a time. Formulas: `tinyllama/ops/layernorm.py`; derived in chapter 07."""

from typing import Any, NamedTuple

import numpy as np

from tinyllama.backends.cpu.compiling import as_matrix, contiguous, kernel, require_float
from tinyllama.ops.array import require_shape, wanted


class LayerNormCache(NamedTuple):
    """The arguments, and two numbers a row."""

    x: Any          # (N, D)
    weight: Any     # (D,)
    mean: Any       # (N,)
    rstd: Any       # (N,)
    has_bias: bool
    shape: tuple


def layernorm_forward(x, weight, bias=None, *, eps=1e-5):
    """y = n · weight + bias,   n = (x - mean(x)) · rstd,   rstd = 1 / sqrt(var(x) + eps).

    x: (..., D), weight: (D,), bias: (D,) or None  ->  y: (..., D), cache. Raises ValueError where shapes do not fit.
    """
    require_float(x, "x")
    require_shape(weight, x.shape[-1:], "weight", "a row of x")
    if bias is not None:
        require_shape(bias, x.shape[-1:], "bias", "a row of x")
    rows, weight = as_matrix(x), contiguous(weight, x.dtype)                            # (N, D), (D,)
    shift = np.zeros_like(weight) if bias is None else contiguous(bias, x.dtype)        # (D,)
    y, mean, rstd = np.empty_like(rows), np.empty(len(rows), x.dtype), np.empty(len(rows), x.dtype)
    _forward(rows, weight, shift, x.dtype.type(eps), y, mean, rstd)
    return y.reshape(x.shape), LayerNormCache(rows, weight, mean, rstd, bias is not None, x.shape)


def layernorm_backward(dy, cache, needs=None):
    """Gradients of x, weight and bias; None for a bias that was not there.

    dy: (..., D)  ->  dx: (..., D), dweight: (D,), dbias: (D,). Raises ValueError where dy has not the shape of x.
    """
    x, weight, mean, rstd, has_bias, shape = cache
    require_shape(dy, shape, "dy", "x")
    needs_x, needs_weight, needs_bias = wanted(needs, 3)
    dx, dweight, dbias = np.empty_like(x), np.zeros_like(weight), np.zeros_like(weight)
    _backward(as_matrix(dy, x.dtype), x, weight, mean, rstd, dx, dweight, dbias)
    return (dx.reshape(shape) if needs_x else None, dweight if needs_weight else None,
            dbias if has_bias and needs_bias else None)


@kernel("(T[:, ::1], T[::1], T[::1], T, T[:, ::1], T[::1], T[::1])")
def _forward(x, weight, bias, eps, y, mean, rstd):
    rows, width = x.shape
    zero, one, count = x.dtype.type(0), x.dtype.type(1), x.dtype.type(width)
    for i in range(rows):
        total, squares = zero, zero
        for j in range(width):
            total += x[i, j]
        mean[i] = total / count
        for j in range(width):
            y[i, j] = x[i, j] - mean[i]
            squares += y[i, j] * y[i, j]
        rstd[i] = one / np.sqrt(squares / count + eps)
        for j in range(width):
            y[i, j] = y[i, j] * rstd[i] * weight[j] + bias[j]


@kernel("(T[:, ::1], T[:, ::1], T[::1], T[::1], T[::1], T[:, ::1], T[::1], T[::1])")
def _backward(dy, x, weight, mean, rstd, dx, dweight, dbias):
    rows, width = x.shape
    zero, count = x.dtype.type(0), x.dtype.type(width)
    for i in range(rows):
        level, slope = zero, zero                           # Σ dn and Σ dn · n
        for j in range(width):
            n = (x[i, j] - mean[i]) * rstd[i]
            dn = dy[i, j] * weight[j]
            level += dn
            slope += dn * n
            dweight[j] += dy[i, j] * n
            dbias[j] += dy[i, j]
        level, slope = level / count, slope / count
        for j in range(width):
            n = (x[i, j] - mean[i]) * rstd[i]
            dx[i, j] = rstd[i] * (dy[i, j] * weight[j] - level - n * slope)
