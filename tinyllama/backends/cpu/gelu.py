"""GELU in one pass, with the logistic sigmoid s in place of tanh. Formulas: `tinyllama/ops/gelu.py`; chapter 06.

(1 + tanh(u)) / 2 = 1 / (1 + exp(-2u)) = s(2u), which turns the formulas of the readable version into

    y  = x · s
    dx = dy · (s + x · s · (1 - s) · 2 du/dx)
"""

from typing import Any, NamedTuple

import numpy as np

from tinyllama.backends.cpu.compiling import contiguous, kernel, require_float
from tinyllama.backends.cpu.sigmoid import LOWEST, sigmoid
from tinyllama.ops.array import require_shape
from tinyllama.ops.gelu import CUBIC, SCALE


class GELUCache(NamedTuple):
    """x alone; the sigmoid is recomputed."""

    x: Any      # (...)


def gelu_forward(x):
    """y = x/2 · (1 + tanh(u)),   u = sqrt(2/π) · (x + 0.044715 x³).   x: (...)  ->  y: (...), cache."""
    require_float(x, "x")
    y = np.empty(x.shape, x.dtype)
    x = contiguous(x).reshape(x.shape)
    _forward(x.reshape(-1), y.reshape(-1), *_constants(x.dtype))
    return y, GELUCache(x)


def gelu_backward(dy, cache, needs=None):
    """The gradient of x.   dy: (...)  ->  dx: (...). Raises ValueError where dy has not the shape of x."""
    (x,) = cache
    require_shape(dy, x.shape, "dy", "x")
    dx = np.empty_like(x)
    _backward(contiguous(dy, x.dtype).reshape(-1), x.reshape(-1), dx.reshape(-1), *_constants(x.dtype))
    return dx


def _constants(dtype):
    """The factors of 2u = linear · x + cubic · x³."""
    return dtype.type(2 * SCALE), dtype.type(2 * SCALE * CUBIC)


@kernel("(T[::1], T[::1], T, T)")
def _forward(x, y, linear, cubic):
    zero = x.dtype.type(0)
    for i in range(x.size):
        u2 = x[i] * (linear + cubic * x[i] * x[i])
        s = sigmoid(u2)
        y[i] = x[i] * (zero if u2 < LOWEST else s)


@kernel("(T[::1], T[::1], T[::1], T, T)")
def _backward(dy, x, dx, linear, cubic):
    zero, one, three = x.dtype.type(0), x.dtype.type(1), x.dtype.type(3)
    for i in range(x.size):
        u2 = x[i] * (linear + cubic * x[i] * x[i])
        s = sigmoid(u2)
        s = zero if u2 < LOWEST else s
        slope = linear + three * cubic * x[i] * x[i]        # 2 du/dx
        dx[i] = dy[i] * (s + x[i] * s * (one - s) * slope)
