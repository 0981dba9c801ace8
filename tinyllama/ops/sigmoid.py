"""The logistic sigmoid."""

from typing import Any, NamedTuple

from tinyllama.ops.array import array_namespace


class SigmoidCache(NamedTuple):
    """The result: its derivative is y (1 - y)."""

    y: Any      # (...)


def sigmoid(x):
    """1 / (1 + exp(-x)). Below -80 the result is as good as zero, 2e-35, and exp must not overflow in float32."""
    xp = array_namespace(x)
    return 1 / (1 + xp.exp(-xp.maximum(x, -80)))


def sigmoid_forward(x):
    """y = 1 / (1 + exp(-x)).

    x: (...)  ->  y: (...), cache. Derived in chapter 05, where it is a softmax over the two scores x and 0.
    Below x = -80 it is held at 2e-35.
    """
    y = sigmoid(x)
    return y, SigmoidCache(y)


def sigmoid_backward(dy, cache, needs=None):
    """The gradient of x.

    dy: (...)  ->  dx: (...).

        dx = dy · y · (1 - y)
    """
    (y,) = cache
    return dy * y * (1 - y)
