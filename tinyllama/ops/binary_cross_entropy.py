"""Binary cross-entropy of a yes-or-no question, from the logit of yes."""

from typing import Any, NamedTuple

from tinyllama.ops.array import array_namespace, in_dtype_of, require_shape
from tinyllama.ops.sigmoid import sigmoid


class BinaryCrossEntropyCache(NamedTuple):
    """The two arguments, and what the sum was divided by; the probability is recomputed."""

    logits: Any     # (...)
    targets: Any    # (...)
    divisor: Any    # a number, or an array of no dimension


def binary_cross_entropy_forward(logits, *, targets, divisor=None):
    """loss = Σ (log(1 + exp(z)) - target · z) / divisor.

    logits z, targets in 0 .. 1: (...)  ->  loss: () in nats, cache.

    This is -target · log p - (1 - target) · log(1 - p) with p = sigmoid(z), written without a logarithm of a number
    that may have underflowed: log(1 + exp(z)) = max(z, 0) + log(1 + exp(-|z|)). `divisor` is the number of elements
    unless given. Raises ValueError where targets have another shape. Derived in chapter 05.
    """
    require_shape(targets, logits.shape, "targets", "logits")
    xp = array_namespace(logits)
    targets = in_dtype_of(logits, targets)
    softplus = xp.maximum(logits, 0) + xp.log1p(xp.exp(-xp.abs(logits)))            # (...)
    divisor = max(logits.size, 1) if divisor is None else in_dtype_of(logits, divisor)
    loss = xp.sum(softplus - targets * logits) / divisor                            # (...) -> ()
    return loss, BinaryCrossEntropyCache(logits, targets, divisor)


def binary_cross_entropy_backward(dloss, cache, needs=None):
    """The gradient of the logits.

    dloss: ()  ->  dlogits: (...).

        dlogits = dloss / divisor · (sigmoid(z) - target)
    """
    logits, targets, divisor = cache
    return (sigmoid(logits) - targets) * (dloss / divisor)                          # (...)
