"""Mean squared error."""

from typing import Any, NamedTuple

from tinyllama.ops.array import array_namespace, in_dtype_of, require_shape


class MSECache(NamedTuple):
    """The difference, and what its squares were divided by."""

    difference: Any     # (...)
    divisor: Any        # a number, or an array of no dimension


def mse_forward(x, *, targets, divisor=None):
    """loss = Σ (x - targets)² / divisor.

    x, targets: (...)  ->  loss: (), cache.

    `divisor` is the number of elements unless given; parts of a split batch pass the count of the whole. Raises
    ValueError where targets have another shape. Derived in chapter 02.
    """
    require_shape(targets, x.shape, "targets", "x")
    xp = array_namespace(x)
    difference = x - in_dtype_of(x, targets)                                            # (...)
    divisor = max(difference.size, 1) if divisor is None else in_dtype_of(x, divisor)
    return xp.sum(difference * difference) / divisor, MSECache(difference, divisor)     # (...) -> ()


def mse_backward(dloss, cache, needs=None):
    """The gradient of x.

    dloss: ()  ->  dx: (...).

        dx = dloss · 2 · (x - targets) / divisor
    """
    difference, divisor = cache
    return difference * (dloss * 2 / divisor)                           # (...)
