"""ReLU in one pass. Formulas: `tinyllama/ops/relu.py`; derived in chapter 06."""

from typing import Any, NamedTuple

import numpy as np

from tinyllama.backends.cpu.compiling import contiguous, kernel, require_float
from tinyllama.ops.array import require_shape


class ReLUCache(NamedTuple):
    """The result, which is positive where x was, and which the next layer keeps anyway."""

    y: Any      # (...)


def relu_forward(x):
    """y = max(x, 0).   x: (...)  ->  y: (...), cache."""
    require_float(x, "x")
    y = np.empty(x.shape, x.dtype)
    _forward(contiguous(x).reshape(-1), y.reshape(-1))
    return y, ReLUCache(y)


def relu_backward(dy, cache, needs=None):
    """The gradient of x.   dy: (...)  ->  dx: (...). Raises ValueError where dy has not the shape of x."""
    (y,) = cache
    require_shape(dy, y.shape, "dy", "x")
    dx = np.empty_like(y)
    _backward(contiguous(dy, y.dtype).reshape(-1), y.reshape(-1), dx.reshape(-1))
    return dx


@kernel("(T[::1], T[::1])")
def _forward(x, y):
    zero = x.dtype.type(0)
    for i in range(x.size):
        y[i] = zero if x[i] <= zero else x[i]               # not max(): it would turn NaN into 0


@kernel("(T[::1], T[::1], T[::1])")
def _backward(dy, y, dx):
    zero, one = y.dtype.type(0), y.dtype.type(1)
    for i in range(y.size):
        dx[i] = dy[i] * (one if y[i] > zero else zero)      # a product: 0 times NaN stays NaN
