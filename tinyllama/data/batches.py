"""Windows of a long row of tokens: random ones to train on, evenly spaced ones to evaluate with.

In a window every token but the last is an input, and the target of each is the token that follows it.
"""

import operator

import numpy as np

from tinyllama.ops.counter_random import random_key


def split(ids, validation_fraction=0.1):
    """The first part of `ids` to train on, and the rest to validate with: (train, validation), without a copy.

    ids: (N,)  ->  about 0.9 N and 0.1 N tokens. The two do not overlap, and the end of the text stays unseen.
    Raises ValueError unless 0 <= validation_fraction < 1.
    """
    if not 0 <= validation_fraction < 1:
        raise ValueError(f"validation_fraction: expected 0 <= validation_fraction < 1, got {validation_fraction}")
    boundary = int(len(ids) * (1 - validation_fraction))
    return ids[:boundary], ids[boundary:]


class Batches:
    """Random windows to train on. Where they start is a function of (seed, step), with no state between the steps.

    A run that stopped after step s goes on with `batch(s + 1)` and sees what it would have seen. Every window of the
    text is equally likely.

    ids: (N,) integers. Raises ValueError where N < context + 1, or where batch_size or context is below 1.
    """

    def __init__(self, ids, *, batch_size, context, seed):
        self.batch_size = _at_least_1("batch_size", batch_size)
        self.context = _at_least_1("context", context)
        self.ids = _tokens(ids, self.context)
        self.seed = operator.index(seed)

    def starts(self, step):
        """Where the windows of this step begin: (batch_size,) int64."""
        step = operator.index(step)
        last = len(self.ids) - self.context - 1
        return np.array([random_key(self.seed, step, row) % (last + 1) for row in range(self.batch_size)])

    def batch(self, step):
        """The inputs and the targets of this step: each (batch_size, context) int64."""
        return _windows(self.ids, self.starts(step), self.context)


def validation_windows(ids, *, batch_size, context, batches):
    """Evenly spaced windows, the first at the start of the text and the last at its end: the same in every call.

    Yields `batches` times (inputs, targets), each (batch_size, context) int64. The windows do not overlap as long as
    the text is long enough for that many.

    ids: (N,) integers. Raises ValueError where N < context + 1, or where a number is below 1.
    """
    batch_size = _at_least_1("batch_size", batch_size)
    context = _at_least_1("context", context)
    batches = _at_least_1("batches", batches)
    ids = _tokens(ids, context)
    last = len(ids) - context - 1
    count = batch_size * batches
    starts = np.arange(count) * last // max(count - 1, 1)
    return (_windows(ids, row, context) for row in starts.reshape(batches, batch_size))


def _windows(ids, starts, context):
    """ids: (N,), starts: (B,)  ->  inputs, targets: (B, context) int64."""
    positions = starts[:, None] + np.arange(context)                        # (B, context)
    return ids[positions].astype(np.int64), ids[positions + 1].astype(np.int64)


def _tokens(ids, context):
    """`ids` as an array, if it is one row of integers with room for a window."""
    ids = np.asarray(ids)
    if ids.ndim != 1:
        raise ValueError(f"ids: expected one row of tokens, got an array of shape {ids.shape}")
    if len(ids) < context + 1:
        raise ValueError(f"ids: expected at least {context + 1} tokens, a context of {context} and one for the last "
                         f"target, got {len(ids)}; use a longer text or a smaller context")
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"ids: expected integers, got {ids.dtype}")
    return ids


def _at_least_1(name, value):
    if not hasattr(value, "__index__") or value < 1:
        raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}")
    return operator.index(value)
