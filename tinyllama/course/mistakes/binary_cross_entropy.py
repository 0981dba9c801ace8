"""Binary cross-entropy, wrong: the argument is a logit, the gradient is a difference of probabilities."""

from tinyllama.ops.array import array_namespace
from tinyllama.ops.binary_cross_entropy import BinaryCrossEntropyCache
from tinyllama.ops.sigmoid import sigmoid


def forgets_to_divide(dloss, cache, needs=None):
    """The gradient is that of the sum, not of the mean."""
    logits, targets, _ = cache
    return (sigmoid(logits) - targets) * dloss                          # (...)


def takes_logits_for_probabilities(dloss, cache, needs=None):
    """The target is subtracted from the logit instead of the probability."""
    logits, targets, divisor = cache
    return (logits - targets) * (dloss / divisor)                       # (...)


def stops_at_the_probability(dloss, cache, needs=None):
    """This is the gradient of the probability p: the factor p (1 - p), which leads to the logit, is left out."""
    logits, targets, divisor = cache
    p = sigmoid(logits)                                                 # (...)
    return (p - targets) / (p * (1 - p)) * (dloss / divisor)            # (...)


def goes_through_the_sigmoid_twice(dloss, cache, needs=None):
    """p - target is the gradient of the logit already; it is multiplied by p (1 - p) once too often."""
    logits, targets, divisor = cache
    p = sigmoid(logits)                                                 # (...)
    return (p - targets) * p * (1 - p) * (dloss / divisor)              # (...)


def subtracts_the_belief(dloss, cache, needs=None):
    """The sign is wrong: what happened minus what was believed."""
    logits, targets, divisor = cache
    return (targets - sigmoid(logits)) * (dloss / divisor)              # (...)


def forgets_the_answer_no(logits, *, targets, divisor=None):
    """The loss is -target · log p alone: a wrong yes costs nothing where the target is 0."""
    xp = array_namespace(logits)
    log_p = xp.minimum(logits, 0) - xp.log1p(xp.exp(-xp.abs(logits)))   # (...)
    divisor = max(logits.size, 1) if divisor is None else divisor
    loss = xp.sum(-targets * log_p) / divisor                           # (...) -> ()
    return loss, BinaryCrossEntropyCache(logits, targets, divisor)


MISTAKES = {
    "binary_cross_entropy_backward": [
        (forgets_to_divide, "constant factor"),
        (takes_logits_for_probabilities, "wrong term"),
        (stops_at_the_probability, "missing term"),
        (goes_through_the_sigmoid_twice, "wrong term"),
        (subtracts_the_belief, "sign"),
    ],
    "binary_cross_entropy_forward": [
        (forgets_the_answer_no, "missing term"),
    ],
}
