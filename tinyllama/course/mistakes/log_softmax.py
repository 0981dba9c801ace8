"""Log-softmax, wrong: the logarithm of the sum depends on every score of the row."""

from tinyllama.ops.array import array_namespace
from tinyllama.ops.log_softmax import LogSoftmaxCache


def forgets_the_log_sum(dy, cache, needs=None):
    """The log-sum is taken for a constant, so that dy passes through unchanged."""
    return dy


def keeps_the_diagonal_only(dy, cache, needs=None):
    """Each score moves its own log-probability only: the gradients of the others in its row are left out."""
    (y,) = cache
    xp = array_namespace(dy)
    return dy * (1 - xp.exp(y))                                         # (..., D)


def takes_the_formula_of_softmax(dy, cache, needs=None):
    """This is the gradient through softmax, without the logarithm."""
    (y,) = cache
    xp = array_namespace(dy)
    p = xp.exp(y)                                                       # (..., D)
    return p * (dy - xp.sum(dy * p, axis=-1, keepdims=True))            # (..., D)


def uses_the_log_probability(dy, cache, needs=None):
    """Σ dy is multiplied by the log-probability, which the cache holds, instead of the probability."""
    (y,) = cache
    xp = array_namespace(dy)
    return dy - y * xp.sum(dy, axis=-1, keepdims=True)                  # (..., D)


def sums_the_whole_array(dy, cache, needs=None):
    """Σ dy runs over all rows instead of each row."""
    (y,) = cache
    xp = array_namespace(dy)
    return dy - xp.exp(y) * xp.sum(dy)                                  # (..., D)


def normalises_the_whole_array(x):
    """The log-sum runs over all rows instead of each row."""
    xp = array_namespace(x)
    shifted = x - xp.max(x)                                             # (..., D)
    y = shifted - xp.log(xp.sum(xp.exp(shifted)))                       # (..., D)
    return y, LogSoftmaxCache(y)


MISTAKES = {
    "log_softmax_backward": [
        (forgets_the_log_sum, "missing term"),
        (keeps_the_diagonal_only, "missing term"),
        (takes_the_formula_of_softmax, "wrong term"),
        (uses_the_log_probability, "wrong term"),
        (sums_the_whole_array, "wrong sum"),
    ],
    "log_softmax_forward": [
        (normalises_the_whole_array, "wrong sum"),
    ],
}
