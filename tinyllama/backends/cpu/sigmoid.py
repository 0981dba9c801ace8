"""The logistic sigmoid in one pass. Formulas: `tinyllama/ops/sigmoid.py`; derived in chapter 05."""

import numpy as np
from numba.extending import register_jitable

from tinyllama.backends.cpu.compiling import contiguous, kernel, require_float
from tinyllama.backends.cpu.exponential import exponential
from tinyllama.ops.array import require_shape
from tinyllama.ops.sigmoid import SigmoidCache

ONE, LOWEST = np.float32(1), np.float32(-80)        # which widen neither float32 nor float64


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


@register_jitable
def sigmoid(x):
    """1 / (1 + exp(-x)) of one number inside a kernel, held at 2e-35 below x = -80; NaN stays NaN."""
    held = LOWEST if x < LOWEST else x
    return ONE / (ONE + exponential(-held))


@kernel("(T[::1], T[::1])")
def _forward(x, y):
    for i in range(x.size):
        y[i] = sigmoid(x[i])


@kernel("(T[::1], T[::1], T[::1])")
def _backward(dy, y, dx):
    one = y.dtype.type(1)
    for i in range(y.size):
        dx[i] = dy[i] * y[i] * (one - y[i])
