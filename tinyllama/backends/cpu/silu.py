"""SiLU in one pass. Formulas: `tinyllama/ops/silu.py`; derived in chapter 06."""

import numpy as np

from tinyllama.backends.cpu.compiling import contiguous, kernel, require_float
from tinyllama.backends.cpu.sigmoid import sigmoid
from tinyllama.ops.array import require_shape
from tinyllama.ops.silu import SiLUCache


def silu_forward(x):
    """y = x · sigmoid(x).   x: (...)  ->  y: (...), cache."""
    require_float(x, "x")
    y = np.empty(x.shape, x.dtype)
    x = contiguous(x).reshape(x.shape)
    _forward(x.reshape(-1), y.reshape(-1))
    return y, SiLUCache(x)


def silu_backward(dy, cache, needs=None):
    """The gradient of x.   dy: (...)  ->  dx: (...). Raises ValueError where dy has not the shape of x."""
    (x,) = cache
    require_shape(dy, x.shape, "dy", "x")
    dx = np.empty_like(x)
    _backward(contiguous(dy, x.dtype).reshape(-1), x.reshape(-1), dx.reshape(-1))
    return dx


@kernel("(T[::1], T[::1])")
def _forward(x, y):
    for i in range(x.size):
        y[i] = x[i] * sigmoid(x[i])


@kernel("(T[::1], T[::1], T[::1])")
def _backward(dy, x, dx):
    one = x.dtype.type(1)
    for i in range(x.size):
        s = sigmoid(x[i])
        dx[i] = dy[i] * s * (one + x[i] * (one - s))
