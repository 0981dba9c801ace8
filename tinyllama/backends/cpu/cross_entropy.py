"""Cross-entropy in one pass over each row of logits. Formulas: `tinyllama/ops/cross_entropy.py`; chapter 05."""

from typing import Any, NamedTuple

import numpy as np

from tinyllama.backends.cpu.compiling import as_matrix, kernel, require_float
from tinyllama.backends.cpu.exponential import exponential
from tinyllama.backends.cpu.maximum import largest
from tinyllama.ops.array import require_integers, require_shape


class CrossEntropyCache(NamedTuple):
    """The logits, one number a row, and the settings: the probabilities are cheaper to recompute than to store."""

    logits: Any         # (N, V)
    logsumexp: Any      # (N,)
    targets: Any        # (N,)      -1 where the target is left out
    divisor: float
    label_smoothing: float
    shape: tuple


def cross_entropy_forward(logits, *, targets, ignore_index=-100, label_smoothing=0.0, divisor=None):
    """loss = Σ (logsumexp(z) - (1 - s) z[target] - s mean(z)) / divisor.   logits: (..., V)  ->  loss: (), cache."""
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing: expected 0 <= label_smoothing <= 1, got {label_smoothing}")
    require_float(logits, "logits")
    require_integers(targets, "targets")
    require_shape(targets, logits.shape[:-1], "targets", "the rows of logits")
    z = as_matrix(logits)                                                               # (..., V) -> (N, V)
    is_valid = targets != ignore_index
    targets = np.where(is_valid, targets, -1).reshape(-1).astype(np.int64)              # (...) -> (N,)
    if (targets.size and not (targets[is_valid.reshape(-1)] >= 0).all()) or targets.max(initial=-1) >= z.shape[1]:
        raise IndexError(f"targets: expected 0 to {z.shape[1] - 1}, or {ignore_index} for none, got another number")
    divisor = float(max(np.count_nonzero(is_valid), 1) if divisor is None else divisor)
    logsumexp = np.empty(len(z), z.dtype)                                               # (N,)
    losses = np.empty(len(z), z.dtype)                                                  # (N,)
    _forward(z, targets, z.dtype.type(label_smoothing), logsumexp, losses)
    loss = z.dtype.type(losses.sum() / divisor)                                         # (N,) -> ()
    return loss, CrossEntropyCache(z, logsumexp, targets, divisor, label_smoothing, logits.shape)


def cross_entropy_backward(dloss, cache, needs=None):
    """The gradient of the logits, softmax(logits) minus the target distribution.   dloss: ()  ->  dlogits: (..., V)."""
    z, logsumexp, targets, divisor, label_smoothing, shape = cache
    dlogits = np.empty_like(z)                                                          # (N, V)
    scale = z.dtype.type(dloss / divisor)
    _backward(z, logsumexp, targets, z.dtype.type(label_smoothing), scale, dlogits)
    return dlogits.reshape(shape)                                                       # (N, V) -> (..., V)


@kernel("(T[:, ::1], int64[::1], T, T[::1], T[::1])")
def _forward(z, targets, smoothing, logsumexp, losses):
    rows, width = z.shape
    zero, one, count = z.dtype.type(0), z.dtype.type(1), z.dtype.type(width)
    for i in range(rows):
        highest, total = largest(z[i]), zero
        for j in range(width):
            total += exponential(z[i, j] - highest)
        logsumexp[i] = highest + np.log(total)
        losses[i] = zero
        if targets[i] >= 0:
            losses[i] = logsumexp[i] - (one - smoothing) * z[i, targets[i]]
            if smoothing > zero:
                losses[i] -= smoothing * (z[i].sum() / count)


@kernel("(T[:, ::1], T[::1], int64[::1], T, T, T[:, ::1])")
def _backward(z, logsumexp, targets, smoothing, scale, dz):
    rows, width = z.shape
    zero, one, count = z.dtype.type(0), z.dtype.type(1), z.dtype.type(width)
    spread = smoothing / count
    for i in range(rows):
        if targets[i] < 0:
            dz[i] = zero
            continue
        for j in range(width):
            dz[i, j] = (exponential(z[i, j] - logsumexp[i]) - spread) * scale
        dz[i, targets[i]] -= (one - smoothing) * scale
