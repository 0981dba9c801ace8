"""Mean squared error, wrong: the 2, the divisor, and the sign."""

from tinyllama.ops.array import array_namespace
from tinyllama.ops.mse import MSECache


def forgets_the_two(dloss, cache, needs=None):
    """The derivative of a square is twice its root: the 2 is left out."""
    difference, divisor = cache
    return difference * (dloss / divisor)                               # (...)


def forgets_to_divide(dloss, cache, needs=None):
    """The gradient is that of the sum of squares, not of their mean."""
    difference, _ = cache
    return difference * (dloss * 2)                                     # (...)


def divides_by_the_batch_only(dloss, cache, needs=None):
    """The gradient is divided by the length of the first axis instead of the number of elements."""
    difference, _ = cache
    return difference * (dloss * 2 / difference.shape[0])               # (...)


def points_towards_the_targets(dloss, cache, needs=None):
    """The sign is wrong: this is the direction that lowers the loss, and the gradient is the one that raises it."""
    difference, divisor = cache
    return -difference * (dloss * 2 / divisor)                          # (...)


def forgets_what_arrives(dloss, cache, needs=None):
    """The gradient of the loss is taken to be 1 instead of dloss."""
    difference, divisor = cache
    return difference * (2 / divisor)                                   # (...)


def forgets_to_square(x, *, targets, divisor=None):
    """The loss is the mean absolute difference instead of the mean squared one, which backward differentiates."""
    xp = array_namespace(x)
    difference = x - targets                                            # (...)
    divisor = max(difference.size, 1) if divisor is None else divisor
    return xp.sum(xp.abs(difference)) / divisor, MSECache(difference, divisor)      # (...) -> ()


MISTAKES = {
    "mse_backward": [
        (forgets_the_two, "constant factor"),
        (forgets_to_divide, "constant factor"),
        (divides_by_the_batch_only, "constant factor"),
        (points_towards_the_targets, "sign"),
        (forgets_what_arrives, "missing term"),
    ],
    "mse_forward": [
        (forgets_to_square, "wrong term"),
    ],
}
