"""The logistic sigmoid."""

from typing import Any, NamedTuple

from tinyllama.ops.array import array_namespace


class SigmoidCache(NamedTuple):
    """The result: its derivative is y (1 - y)."""

    y: Any      # (...)


def sigmoid(x):
    """1 / (1 + exp(-x)), for any x without overflow: the exponential is only ever taken of -|x|."""
    xp = array_namespace(x)
    e = xp.exp(-xp.abs(x))
    return xp.where(x >= 0, 1, e) / (1 + e)


def sigmoid_forward(x):
    """y = 1 / (1 + exp(-x)).

    x: (...)  ->  y: (...), cache. Derived in chapter 05, where it is a softmax over the two scores x and 0.
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
