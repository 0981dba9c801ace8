"""SwiGLU in one pass over both halves. Formulas: `tinyllama/ops/swiglu.py`; derived in chapter 06."""

import numpy as np

from tinyllama.backends.cpu.compiling import as_matrix, kernel, require_float
from tinyllama.backends.cpu.sigmoid import sigmoid
from tinyllama.ops.array import require_shape
from tinyllama.ops.swiglu import SwiGLUCache


def swiglu_forward(x):
    """y = gate · sigmoid(gate) · up,   gate, up = the two halves of x.   x: (..., 2I)  ->  y: (..., I), cache."""
    require_float(x, "x")
    if x.shape[-1] % 2:
        raise ValueError(f"x: expected an even last dimension (gate and up), got the shape {x.shape}")
    rows = as_matrix(x)                                                                 # (N, 2I)
    y = np.empty((len(rows), x.shape[-1] // 2), x.dtype)                                # (N, I)
    _forward(rows, y)
    return y.reshape(*x.shape[:-1], y.shape[1]), SwiGLUCache(rows)


def swiglu_backward(dy, cache, needs=None):
    """The gradient of the fused gate-and-up array.   dy: (..., I)  ->  dx: (..., 2I)."""
    (x,) = cache
    require_shape(dy.reshape(-1, dy.shape[-1]), (len(x), x.shape[1] // 2), "dy", "y, as rows")
    dx = np.empty_like(x)                                                               # (N, 2I)
    _backward(as_matrix(dy, x.dtype), x, dx)
    return dx.reshape(*dy.shape[:-1], x.shape[1])


@kernel("(T[:, ::1], T[:, ::1])")
def _forward(x, y):
    rows, width = y.shape
    for i in range(rows):
        gate, up = x[i, :width], x[i, width:]
        for j in range(width):
            y[i, j] = gate[j] * sigmoid(gate[j]) * up[j]


@kernel("(T[:, ::1], T[:, ::1], T[:, ::1])")
def _backward(dy, x, dx):
    rows, width = dy.shape
    one = x.dtype.type(1)
    for i in range(rows):
        gate, up = x[i, :width], x[i, width:]
        dgate, dup = dx[i, :width], dx[i, width:]
        for j in range(width):
            g, s = gate[j], sigmoid(gate[j])
            dup[j] = dy[i, j] * g * s
            dgate[j] = dy[i, j] * up[j] * s * (one + g * (one - s))
