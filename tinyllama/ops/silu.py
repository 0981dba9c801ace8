"""SiLU, also called swish: x times its own sigmoid."""

from typing import Any, NamedTuple

from tinyllama.ops.sigmoid import sigmoid


class SiLUCache(NamedTuple):
    """x alone; its sigmoid is recomputed."""

    x: Any      # (...)


def silu_forward(x):
    """y = x · sigmoid(x).

    x: (...)  ->  y: (...), cache. Elfwing et al. 2017, eq. 5; derived in chapter 06.
    """
    return x * sigmoid(x), SiLUCache(x)


def silu_backward(dy, cache, needs=None):
    """The gradient of x.

    dy: (...)  ->  dx: (...).

        dx = dy · s · (1 + x · (1 - s)),   s = sigmoid(x)
    """
    (x,) = cache
    s = sigmoid(x)                                                      # (...)
    return dy * s * (1 + x * (1 - s))
