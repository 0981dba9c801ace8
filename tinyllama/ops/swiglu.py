"""SwiGLU: one half of the features gates the other half."""

from typing import Any, NamedTuple

from tinyllama.ops.array import array_namespace
from tinyllama.ops.sigmoid import sigmoid


class SwiGLUCache(NamedTuple):
    """The input alone; the sigmoid of the gate is recomputed."""

    x: Any      # (..., 2I)


def swiglu_forward(x):
    """y = silu(gate) · up,   gate, up = the first and the second half of x.

    x: (..., 2I)  ->  y: (..., I), cache.

    Both halves come in one array because one matrix product makes them. Raises ValueError where the last dimension is
    odd. Source: Shazeer 2020, eq. 5. Derived in chapter 06.
    """
    gate, up = _halves(x)                                               # (..., I), (..., I)
    return gate * sigmoid(gate) * up, SwiGLUCache(x)                    # (..., I)


def swiglu_backward(dy, cache, needs=None):
    """The gradient of the fused gate-and-up array.

    dy: (..., I)  ->  dx: (..., 2I).

        dup   = dy · silu(gate)
        dgate = dy · up · s · (1 + gate · (1 - s)),   s = sigmoid(gate)
    """
    (x,) = cache
    xp = array_namespace(dy)
    gate, up = _halves(x)                                               # (..., I), (..., I)
    s = sigmoid(gate)                                                   # (..., I)
    dup = dy * gate * s                                                 # (..., I)
    dgate = dy * up * s * (1 + gate * (1 - s))                          # (..., I)
    return xp.concatenate([dgate, dup], axis=-1)                        # (..., 2I)


def _halves(x):
    if x.shape[-1] % 2:
        raise ValueError(f"x: expected an even last dimension (gate and up), got the shape {x.shape}")
    half = x.shape[-1] // 2
    return x[..., :half], x[..., half:]
