"""ReLU: the positive part."""

from typing import Any, NamedTuple

from tinyllama.ops.array import array_namespace


class ReLUCache(NamedTuple):
    """Where x was positive."""

    positive: Any       # (...) booleans


def relu_forward(x):
    """y = max(x, 0).

    x: (...)  ->  y: (...), cache. Nair & Hinton 2010; derived in chapter 06.
    """
    xp = array_namespace(x)
    return xp.maximum(x, 0), ReLUCache(x > 0)


def relu_backward(dy, cache, needs=None):
    """The gradient of x.

    dy: (...)  ->  dx: (...).

        dx = dy where x > 0, else 0         at x = 0 there is no derivative, and 0 is as good as any value up to 1
    """
    (positive,) = cache
    return dy * positive
