"""Log-softmax: scores to log-probabilities, along the last axis."""

from typing import Any, NamedTuple

from tinyllama.ops.array import array_namespace


class LogSoftmaxCache(NamedTuple):
    """The log-probabilities; the probabilities are their exponentials."""

    y: Any      # (..., D)


def log_softmax_forward(x):
    """y = x - log Σ exp(x), the sum along the last axis.

    x: (..., D)  ->  y: (..., D), cache.

    The row's maximum is subtracted first, as in softmax. Taking the logarithm of softmax afterwards would give -inf
    wherever a probability underflows to zero; this form never divides and never takes the logarithm of a number below
    one. Derived in chapter 05.
    """
    xp = array_namespace(x)
    shifted = x - xp.max(x, axis=-1, keepdims=True)                     # (..., D)
    y = shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))       # (..., D)
    return y, LogSoftmaxCache(y)


def log_softmax_backward(dy, cache, needs=None):
    """The gradient of the scores.

    dy: (..., D)  ->  dx: (..., D).

        dx = dy - softmax(x) · Σ dy     every log-probability of a row contains the same log-sum
    """
    (y,) = cache
    xp = array_namespace(dy)
    return dy - xp.exp(y) * xp.sum(dy, axis=-1, keepdims=True)          # (..., D)
