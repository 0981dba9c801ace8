"""Softmax: scores to probabilities, along the last axis."""

from typing import Any, NamedTuple

from tinyllama.ops.array import array_namespace


class SoftmaxCache(NamedTuple):
    """The probabilities: the derivative is a function of the result alone."""

    y: Any      # (..., D)


def softmax_forward(x):
    """y = exp(x) / Σ exp(x), the sum along the last axis.

    x: (..., D)  ->  y: (..., D), cache.

    The row's maximum is subtracted first. That divides numerator and denominator by the same number, so it changes
    nothing but the range: the largest exponent is 0 and nothing overflows. Derived in chapter 05.
    """
    xp = array_namespace(x)
    exponentials = xp.exp(x - xp.max(x, axis=-1, keepdims=True))        # (..., D)
    y = exponentials / xp.sum(exponentials, axis=-1, keepdims=True)     # (..., D)
    return y, SoftmaxCache(y)


def softmax_backward(dy, cache, needs=None):
    """The gradient of the scores.

    dy: (..., D)  ->  dx: (..., D).

        dx = y · (dy - Σ dy · y)        raising one score takes probability from all the others, hence the sum
    """
    (y,) = cache
    xp = array_namespace(dy)
    return y * (dy - xp.sum(dy * y, axis=-1, keepdims=True))            # (..., D)
