"""Softmax, wrong: each score moves every probability of its row, and only of its row."""

from tinyllama.ops.array import array_namespace
from tinyllama.ops.softmax import SoftmaxCache


def keeps_the_diagonal_only(dy, cache, needs=None):
    """Each score moves its own probability only, as in a sigmoid: the rest of the Jacobian is left out."""
    (y,) = cache
    return dy * y * (1 - y)


def forgets_the_sum(dy, cache, needs=None):
    """The denominator is taken for a constant: Σ dy · y is left out."""
    (y,) = cache
    return y * dy


def forgets_the_outer_factor(dy, cache, needs=None):
    """The difference dy - Σ dy · y is not multiplied by y."""
    (y,) = cache
    xp = array_namespace(dy)
    return dy - xp.sum(dy * y, axis=-1, keepdims=True)                  # (..., D)


def adds_the_sum(dy, cache, needs=None):
    """Σ dy · y is added instead of subtracted."""
    (y,) = cache
    xp = array_namespace(dy)
    return y * (dy + xp.sum(dy * y, axis=-1, keepdims=True))            # (..., D)


def sums_over_the_batch(dy, cache, needs=None):
    """The sum runs over the first axis instead of the last."""
    (y,) = cache
    xp = array_namespace(dy)
    return y * (dy - xp.sum(dy * y, axis=0, keepdims=True))             # (1, ..., D) -> (..., D)


def averages_instead_of_summing(dy, cache, needs=None):
    """The mean of dy · y over the row is subtracted instead of its sum."""
    (y,) = cache
    xp = array_namespace(dy)
    return y * (dy - xp.mean(dy * y, axis=-1, keepdims=True))           # (..., D)


def does_not_weight_the_sum(dy, cache, needs=None):
    """The sum is of dy alone and not of dy · y."""
    (y,) = cache
    xp = array_namespace(dy)
    return y * (dy - xp.sum(dy, axis=-1, keepdims=True))                # (..., D)


def normalises_the_whole_array(x):
    """The exponentials are divided by the sum over all rows, so that the array and not each row sums to 1."""
    xp = array_namespace(x)
    exponentials = xp.exp(x - xp.max(x))                                # (..., D)
    y = exponentials / xp.sum(exponentials)                             # (..., D)
    return y, SoftmaxCache(y)


def normalises_over_the_batch(x):
    """The exponentials are divided by their sum over the first axis instead of the last."""
    xp = array_namespace(x)
    exponentials = xp.exp(x - xp.max(x, axis=0, keepdims=True))         # (..., D)
    y = exponentials / xp.sum(exponentials, axis=0, keepdims=True)      # (..., D)
    return y, SoftmaxCache(y)


MISTAKES = {
    "softmax_backward": [
        (keeps_the_diagonal_only, "missing term"),
        (forgets_the_sum, "missing term"),
        (forgets_the_outer_factor, "missing term"),
        (adds_the_sum, "sign"),
        (sums_over_the_batch, "wrong sum"),
        (averages_instead_of_summing, "wrong sum"),
        (does_not_weight_the_sum, "missing term"),
    ],
    "softmax_forward": [
        (normalises_the_whole_array, "wrong sum"),
        (normalises_over_the_batch, "wrong sum"),
    ],
}
