"""The logistic sigmoid in one pass. Formulas: `tinyllama/ops/sigmoid.py`; derived in chapter 05."""

import numpy as np

from tinyllama.backends.cpu.compiling import contiguous, kernel, require_float
from tinyllama.backends.cpu.exponential import exponential
from tinyllama.ops.array import require_shape
from tinyllama.ops.sigmoid import SigmoidCache


def sigmoid_forward(x):
    """y = 1 / (1 + exp(-x)), held at 2e-35 below x = -80.   x: (...)  ->  y: (...), cache."""
    require_float(x, "x")
    y = np.empty(x.shape, x.dtype)
    _forward(contiguous(x).reshape(-1), y.reshape(-1))
    return y, SigmoidCache(y)


def sigmoid_backward(dy, cache, needs=None):
    """The gradient of x.   dy: (...)  ->  dx: (...). Raises ValueError where dy has not the shape of x."""
    (y,) = cache
    require_shape(dy, y.shape, "dy", "x")
    dx = np.empty_like(y)
    _backward(contiguous(dy, y.dtype).reshape(-1), y.reshape(-1), dx.reshape(-1))
    return dx


@kernel("(T[::1], T[::1])")
def _forward(x, y):
    one, lowest = x.dtype.type(1), x.dtype.type(-80)
    for i in range(x.size):
        held = lowest if x[i] < lowest else x[i]            # as in the readable version
        y[i] = one / (one + exponential(-held))


@kernel("(T[::1], T[::1], T[::1])")
def _backward(dy, y, dx):
    one = y.dtype.type(1)
    for i in range(y.size):
        dx[i] = dy[i] * y[i] * (one - y[i])
