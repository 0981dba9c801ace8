"""Cross-entropy: how surprised the model was by the tokens that really came next."""

from typing import Any, NamedTuple

from tinyllama.ops.array import array_namespace, as_rows, in_dtype_of, require_integers, require_shape


class CrossEntropyCache(NamedTuple):
    """The logits and one number a row. The probabilities, as large as the logits, are recomputed instead of kept."""

    logits: Any             # (..., V)
    logsumexp: Any          # (N, 1)
    targets: Any            # (N,)      0 where the target is ignored
    valid: Any              # (N, 1)    1.0 where the target counts, 0.0 where it is ignored
    divisor: Any            # a number, or an array of no dimension
    label_smoothing: float


def cross_entropy_forward(logits, *, targets, ignore_index=-100, label_smoothing=0.0, divisor=None):
    """loss = Σ over the valid targets of (log Σ exp(z) - (1 - s) · z[target] - s · mean(z)) / divisor.

    logits: (..., V), targets: (...) integers  ->  loss: () in nats, cache.

    z is a row of logits and s the label smoothing (Szegedy et al. 2016, section 7): the target distribution has 1 - s
    on the target and s spread evenly over all V tokens. A target equal to `ignore_index` is left out. `divisor` is the
    number of valid targets unless given: whoever splits a batch passes the count of the whole, so that the parts add
    up to it. Without a valid target the loss is 0 and so is its gradient.

    Raises TypeError where targets are not integers, ValueError where they have another shape. Their range is checked
    where data enters (the model), as with embedding. Derived in chapter 05.
    """
    xp = array_namespace(logits)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing: expected 0 <= label_smoothing <= 1, got {label_smoothing}")
    require_integers(targets, "targets")
    require_shape(targets, logits.shape[:-1], "targets", "the rows of logits")
    z = as_rows(logits)                                                 # (..., V) -> (N, V)
    targets = targets.reshape(-1)                                       # (...) -> (N,)
    is_valid = targets != ignore_index
    valid = is_valid.astype(logits.dtype)[:, None]                      # (N, 1)
    targets = xp.where(is_valid, targets, 0)
    divisor = xp.maximum(xp.sum(valid), 1) if divisor is None else in_dtype_of(logits, divisor)

    largest = xp.max(z, axis=-1, keepdims=True)                         # (N, 1)
    logsumexp = largest + xp.log(xp.sum(xp.exp(z - largest), axis=-1, keepdims=True))                       # (N, 1)
    losses = logsumexp - (1 - label_smoothing) * xp.take_along_axis(z, targets[:, None], axis=-1)           # (N, 1)
    if label_smoothing:
        losses = losses - label_smoothing * xp.mean(z, axis=-1, keepdims=True)                              # (N, 1)
    loss = xp.sum(losses * valid) / divisor                             # (N, 1) -> ()
    return loss, CrossEntropyCache(logits, logsumexp, targets, valid, divisor, label_smoothing)


def cross_entropy_backward(dloss, cache, needs=None):
    """The gradient of the logits.

    dloss: ()  ->  dlogits: (..., V).

        dlogits = dloss / divisor · (p - target distribution)       what was believed, minus what happened

    with p = softmax(logits). Rows with an ignored target get zeros.
    """
    logits, logsumexp, targets, valid, divisor, label_smoothing = cache
    xp = array_namespace(logits)
    dlogits = xp.exp(as_rows(logits) - logsumexp)                       # (N, V)   p
    if label_smoothing:
        dlogits -= label_smoothing / logits.shape[-1]
    dlogits[xp.arange(len(targets)), targets] -= 1 - label_smoothing    # one element a row
    dlogits *= valid * (dloss / divisor)                                # (N, V) · (N, 1)
    return dlogits.reshape(logits.shape)                                # (N, V) -> (..., V)
