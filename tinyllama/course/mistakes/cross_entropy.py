"""Cross-entropy, wrong: what is believed minus what happened, for the valid targets, divided once."""

from tinyllama.ops.array import array_namespace, as_rows
from tinyllama.ops.cross_entropy import CrossEntropyCache


def forgets_to_divide(dloss, cache, needs=None):
    """The gradient is not divided by the number of targets, though the loss is."""
    logits, logsumexp, targets, valid, _, label_smoothing = cache
    xp = array_namespace(logits)
    dlogits = xp.exp(as_rows(logits) - logsumexp)                       # (N, V)
    dlogits -= label_smoothing / logits.shape[-1]
    dlogits[xp.arange(len(targets)), targets] -= 1 - label_smoothing
    return (dlogits * valid * dloss).reshape(logits.shape)              # (N, V) -> (..., V)


def divides_twice(dloss, cache, needs=None):
    """The gradient is divided by the number of targets, and again by the batch size."""
    logits, logsumexp, targets, valid, divisor, label_smoothing = cache
    xp = array_namespace(logits)
    dlogits = xp.exp(as_rows(logits) - logsumexp)                       # (N, V)
    dlogits -= label_smoothing / logits.shape[-1]
    dlogits[xp.arange(len(targets)), targets] -= 1 - label_smoothing
    dlogits *= valid * (dloss / divisor) / logits.shape[0]
    return dlogits.reshape(logits.shape)                                # (N, V) -> (..., V)


def divides_by_all_targets(dloss, cache, needs=None):
    """The gradient is divided by the number of all targets, with those that are ignored."""
    logits, logsumexp, targets, valid, _, label_smoothing = cache
    xp = array_namespace(logits)
    dlogits = xp.exp(as_rows(logits) - logsumexp)                       # (N, V)
    dlogits -= label_smoothing / logits.shape[-1]
    dlogits[xp.arange(len(targets)), targets] -= 1 - label_smoothing
    dlogits *= valid * (dloss / len(targets))
    return dlogits.reshape(logits.shape)                                # (N, V) -> (..., V)


def learns_from_ignored_targets(dloss, cache, needs=None):
    """Rows with an ignored target get a gradient, as if the target had been token 0."""
    logits, logsumexp, targets, _, divisor, label_smoothing = cache
    xp = array_namespace(logits)
    dlogits = xp.exp(as_rows(logits) - logsumexp)                       # (N, V)
    dlogits -= label_smoothing / logits.shape[-1]
    dlogits[xp.arange(len(targets)), targets] -= 1 - label_smoothing
    return (dlogits * (dloss / divisor)).reshape(logits.shape)          # (N, V) -> (..., V)


def forgets_the_smoothing(dloss, cache, needs=None):
    """The target distribution has 1 on the target and 0 elsewhere, though the loss smoothed the labels."""
    logits, logsumexp, targets, valid, divisor, _ = cache
    xp = array_namespace(logits)
    dlogits = xp.exp(as_rows(logits) - logsumexp)                       # (N, V)
    dlogits[xp.arange(len(targets)), targets] -= 1
    dlogits *= valid * (dloss / divisor)
    return dlogits.reshape(logits.shape)                                # (N, V) -> (..., V)


def subtracts_the_belief(dloss, cache, needs=None):
    """The sign is wrong: what happened minus what was believed."""
    logits, logsumexp, targets, valid, divisor, label_smoothing = cache
    xp = array_namespace(logits)
    dlogits = label_smoothing / logits.shape[-1] - xp.exp(as_rows(logits) - logsumexp)      # (N, V)
    dlogits[xp.arange(len(targets)), targets] += 1 - label_smoothing
    dlogits *= valid * (dloss / divisor)
    return dlogits.reshape(logits.shape)                                # (N, V) -> (..., V)


def moves_the_target_only(dloss, cache, needs=None):
    """Only the logit of the target gets a gradient: those of the other tokens are left at zero."""
    logits, logsumexp, targets, valid, divisor, label_smoothing = cache
    xp = array_namespace(logits)
    rows = xp.arange(len(targets))                                      # (N,)
    p = xp.exp(as_rows(logits) - logsumexp)                             # (N, V)
    dlogits = xp.zeros_like(p)                                          # (N, V)
    dlogits[rows, targets] = p[rows, targets] - (1 - label_smoothing) - label_smoothing / logits.shape[-1]
    dlogits *= valid * (dloss / divisor)
    return dlogits.reshape(logits.shape)                                # (N, V) -> (..., V)


def subtracts_from_whole_columns(dloss, cache, needs=None):
    """dlogits[:, targets] takes the columns of all targets in every row, instead of one element a row."""
    logits, logsumexp, targets, valid, divisor, label_smoothing = cache
    xp = array_namespace(logits)
    dlogits = xp.exp(as_rows(logits) - logsumexp)                       # (N, V)
    dlogits -= label_smoothing / logits.shape[-1]
    dlogits[:, targets] -= 1 - label_smoothing
    dlogits *= valid * (dloss / divisor)
    return dlogits.reshape(logits.shape)                                # (N, V) -> (..., V)


def forgets_what_arrives(dloss, cache, needs=None):
    """The gradient of the loss is taken to be 1 instead of dloss."""
    logits, logsumexp, targets, valid, divisor, label_smoothing = cache
    xp = array_namespace(logits)
    dlogits = xp.exp(as_rows(logits) - logsumexp)                       # (N, V)
    dlogits -= label_smoothing / logits.shape[-1]
    dlogits[xp.arange(len(targets)), targets] -= 1 - label_smoothing
    return (dlogits * valid / divisor).reshape(logits.shape)            # (N, V) -> (..., V)


def averages_over_all_targets(logits, *, targets, ignore_index=-100, label_smoothing=0.0, divisor=None):
    """The loss is the mean over all rows, with those whose target is ignored, and whatever the divisor."""
    xp = array_namespace(logits)
    z, targets = as_rows(logits), targets.reshape(-1)                   # (N, V), (N,)
    valid = (targets != ignore_index).astype(logits.dtype)[:, None]     # (N, 1)
    targets = xp.where(targets != ignore_index, targets, 0)
    divisor = xp.maximum(xp.sum(valid), 1) if divisor is None else divisor
    largest = xp.max(z, axis=-1, keepdims=True)                         # (N, 1)
    logsumexp = largest + xp.log(xp.sum(xp.exp(z - largest), axis=-1, keepdims=True))
    z_target = xp.take_along_axis(z, targets[:, None], axis=-1)         # (N, V) -> (N, 1)
    z_mean = xp.mean(z, axis=-1, keepdims=True)                         # (N, V) -> (N, 1)
    losses = logsumexp - (1 - label_smoothing) * z_target - label_smoothing * z_mean
    return xp.mean(losses * valid), CrossEntropyCache(logits, logsumexp, targets, valid, divisor, label_smoothing)


def counts_ignored_targets(logits, *, targets, ignore_index=-100, label_smoothing=0.0, divisor=None):
    """Ignored targets are part of the sum, as if they had been token 0."""
    xp = array_namespace(logits)
    z, targets = as_rows(logits), targets.reshape(-1)                   # (N, V), (N,)
    valid = (targets != ignore_index).astype(logits.dtype)[:, None]     # (N, 1)
    targets = xp.where(targets != ignore_index, targets, 0)
    divisor = xp.maximum(xp.sum(valid), 1) if divisor is None else divisor
    largest = xp.max(z, axis=-1, keepdims=True)                         # (N, 1)
    logsumexp = largest + xp.log(xp.sum(xp.exp(z - largest), axis=-1, keepdims=True))
    z_target = xp.take_along_axis(z, targets[:, None], axis=-1)         # (N, V) -> (N, 1)
    z_mean = xp.mean(z, axis=-1, keepdims=True)                         # (N, V) -> (N, 1)
    losses = logsumexp - (1 - label_smoothing) * z_target - label_smoothing * z_mean
    loss = xp.sum(losses) / divisor                                     # (N, 1) -> ()
    return loss, CrossEntropyCache(logits, logsumexp, targets, valid, divisor, label_smoothing)


def applies_softmax_twice(logits, *, targets, ignore_index=-100, label_smoothing=0.0, divisor=None):
    """The loss takes the probabilities for logits and applies softmax to them once more."""
    xp = array_namespace(logits)
    z, targets = as_rows(logits), targets.reshape(-1)                   # (N, V), (N,)
    valid = (targets != ignore_index).astype(logits.dtype)[:, None]     # (N, 1)
    targets = xp.where(targets != ignore_index, targets, 0)
    divisor = xp.maximum(xp.sum(valid), 1) if divisor is None else divisor
    largest = xp.max(z, axis=-1, keepdims=True)                         # (N, 1)
    logsumexp = largest + xp.log(xp.sum(xp.exp(z - largest), axis=-1, keepdims=True))
    p = xp.exp(z - logsumexp)                                           # (N, V)
    p_target = xp.take_along_axis(p, targets[:, None], axis=-1)         # (N, V) -> (N, 1)
    p_mean = xp.mean(p, axis=-1, keepdims=True)                         # (N, V) -> (N, 1)
    losses = xp.log(xp.sum(xp.exp(p), axis=-1, keepdims=True))          # (N, V) -> (N, 1)
    losses = losses - (1 - label_smoothing) * p_target - label_smoothing * p_mean
    loss = xp.sum(losses * valid) / divisor                             # (N, 1) -> ()
    return loss, CrossEntropyCache(logits, logsumexp, targets, valid, divisor, label_smoothing)


MISTAKES = {
    "cross_entropy_backward": [
        (forgets_to_divide, "constant factor"),
        (divides_twice, "constant factor"),
        (divides_by_all_targets, "constant factor"),
        (learns_from_ignored_targets, "mask"),
        (forgets_the_smoothing, "missing term"),
        (subtracts_the_belief, "sign"),
        (moves_the_target_only, "missing term"),
        (subtracts_from_whole_columns, "wrong order"),
        (forgets_what_arrives, "missing term"),
    ],
    "cross_entropy_forward": [
        (averages_over_all_targets, "constant factor"),
        (counts_ignored_targets, "mask"),
        (applies_softmax_twice, "wrong term"),
    ],
}
