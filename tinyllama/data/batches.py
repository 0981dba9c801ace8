"""What a training step sees: rows of tokens, as a function of the seed and the step alone.

In a row, the target of each token is the token that follows it in its document. Long texts are seen through random
windows; short documents are packed, as many whole ones into a row as fit. Neither keeps anything from one step to the
next, so a run that stopped after a step goes on with the next one and sees what it would have seen.
"""

import functools
import operator
from typing import Any, NamedTuple

import numpy as np

from tinyllama.data.tokens import Tokens
from tinyllama.ops.counter_random import random_key, random_uint32

IGNORED = -100      # a target that does not count: padding, or the first token of the next document


class Batch(NamedTuple):
    """Rows of tokens for `Llama.loss_and_grads`, which takes them in this order but for `documents`, a keyword."""

    ids: Any            # (B, T) int64
    targets: Any        # (B, T) int64, -100 where nothing is to be predicted
    documents: Any      # (B, T) int64, the number of each token's document; None where each row holds only one


def are_short(tokens, context):
    """Whether at least half of the documents fit into a row of `context`: then packing suits them."""
    return 2 * np.count_nonzero(tokens.lengths <= context + 1) >= len(tokens.lengths)


class WindowBatches:
    """Random windows of a long text, each place to start equally likely.

    tokens: `Tokens`, N in all. Raises ValueError where N < context + 1, or where batch_size or context is below 1.
    """

    def __init__(self, tokens, *, batch_size, context, seed):
        self.batch_size = _at_least_1("batch_size", batch_size)
        self.context = _at_least_1("context", context)
        self.tokens = _with_room(tokens, self.context)
        self.seed = operator.index(seed)

    def starts(self, step):
        """Where the windows of this step begin: (batch_size,) int64."""
        step = operator.index(step)
        last = len(self.tokens.ids) - self.context - 1
        return np.array([random_key(self.seed, step, row) % (last + 1) for row in range(self.batch_size)])

    def batch(self, step):
        """The `Batch` of this step, (batch_size, context)."""
        return _windows(self.tokens, self.starts(step), self.context)


class PackedBatches:
    """Whole documents, as many in a row as fit; every row is seen once before one is seen again.

    Each document goes to the fullest row that has room for it, in an order drawn from the seed. One that is longer than
    a row is cut into pieces, each of which begins with the last token of the piece before.

    tokens: `Tokens`. Raises ValueError where they do not fill batch_size rows, or where batch_size or context is below
    1.
    """

    def __init__(self, tokens, *, batch_size, context, seed):
        self.batch_size = _at_least_1("batch_size", batch_size)
        self.context = _at_least_1("context", context)
        self.tokens = tokens
        self.seed = operator.index(seed)
        self.packing = Packing(tokens, context=self.context, seed=self.seed)
        if len(self.packing) < self.batch_size:
            raise ValueError(f"tokens: expected documents that fill {self.batch_size} rows of {self.context}, a batch, "
                             f"got {len(tokens.lengths):,} documents that fill {len(self.packing)}; use more text or a "
                             "smaller batch")
        self._order = functools.lru_cache(maxsize=2)(self._order_of_epoch)      # a batch may reach into the next epoch

    def batch(self, step):
        """The `Batch` of this step, (batch_size, context)."""
        first = operator.index(step) * self.batch_size
        places = [divmod(row, len(self.packing)) for row in range(first, first + self.batch_size)]
        return self.packing.rows([self._order(epoch)[place] for epoch, place in places])

    def _order_of_epoch(self, epoch):
        return _shuffled(len(self.packing), self.seed, epoch)


class Packing:
    """Which documents lie in which row. len(packing) is the number of rows.

    seed: draws the order in which documents look for a row; None takes them as they come.
    """

    def __init__(self, tokens, *, context, seed=None):
        self.tokens, self.context = tokens, context
        pieces = _pieces(tokens, context)                                       # (P, 2) start, number of targets
        if seed is not None:
            pieces = pieces[_shuffled(len(pieces), seed)]
        self._rows = [pieces[members] for members in _pack(pieces[:, 1].tolist(), context)]

    def __len__(self):
        return len(self._rows)

    def rows(self, numbers):
        """The `Batch` of the rows with these numbers: (B, context). Free places hold token 0 and no target."""
        shape = (len(numbers), self.context)
        ids, targets = np.zeros(shape, dtype=np.int64), np.full(shape, IGNORED, dtype=np.int64)     # (B, T) each
        documents = np.full(shape, -1, dtype=np.int64)                                              # (B, T)
        for row, number in enumerate(numbers):
            place = 0
            for document, (start, length) in enumerate(self._rows[number].tolist()):
                here = slice(place, place + length)
                ids[row, here] = self.tokens.ids[start:start + length]
                targets[row, here] = self.tokens.ids[start + 1:start + length + 1]
                documents[row, here] = document
                place += length
        return Batch(ids, targets, documents)


def first_documents(tokens, limit):
    """The first documents, as many as have at most `limit` tokens together, but at least one: `Tokens`."""
    count = max(int(np.searchsorted(tokens.starts, limit, side="right")) - 1, 1)
    return Tokens(tokens.ids[:tokens.starts[count]], tokens.starts[:count + 1])


def packed_batches(tokens, *, batch_size, context):
    """Every target of every document exactly once: yields a `Batch` at a time, the last with the rows that remain.

    Raises ValueError where batch_size or context is below 1.
    """
    batch_size = _at_least_1("batch_size", batch_size)
    packing = Packing(tokens, context=_at_least_1("context", context))
    return (packing.rows(range(first, min(first + batch_size, len(packing))))
            for first in range(0, len(packing), batch_size))


def validation_windows(tokens, *, batch_size, context, batches):
    """Evenly spaced windows, the first at the start of the text and the last at its end: the same in every call.

    Yields `batches` times a `Batch`, (batch_size, context). The windows do not overlap as long as the text is long
    enough for that many. Raises ValueError where there are fewer than context + 1 tokens, or where a number is below 1.
    """
    batch_size = _at_least_1("batch_size", batch_size)
    context = _at_least_1("context", context)
    batches = _at_least_1("batches", batches)
    tokens = _with_room(tokens, context)
    last = len(tokens.ids) - context - 1
    count = batch_size * batches
    starts = np.arange(count) * last // max(count - 1, 1)
    return (_windows(tokens, row, context) for row in starts.reshape(batches, batch_size))


def _windows(tokens, starts, context):
    """starts: (B,)  ->  a Batch of (B, context). The first token of a document is nobody's target."""
    positions = starts[:, None] + np.arange(context)                            # (B, T)
    ids, targets = (tokens.ids[places].astype(np.int64) for places in (positions, positions + 1))
    if len(tokens.starts) == 2:     # one document
        return Batch(ids, targets, None)
    documents = np.searchsorted(tokens.starts, positions, side="right")         # (B, T)
    documents_of_targets = np.searchsorted(tokens.starts, positions + 1, side="right")
    return Batch(ids, np.where(documents_of_targets == documents, targets, IGNORED), documents)


def _pieces(tokens, context):
    """(P, 2) int64: where each piece of a document starts, and how many targets it has, 1 to context."""
    starts, targets = tokens.starts[:-1], np.maximum(tokens.lengths - 1, 0)     # (D,) each
    counts = -(-targets // context)                                             # (D,)   pieces of each document
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)    # (P,)   0, 1, ... in each
    offsets = number * context                                                  # (P,)
    lengths = np.minimum(np.repeat(targets, counts) - offsets, context)         # (P,)
    return np.stack([np.repeat(starts, counts) + offsets, lengths], axis=1)     # (P, 2)


def _pack(lengths, context):
    """Put each length into the fullest row that has room for it: a list of lists of the places in `lengths`."""
    rows, by_room = [], [[] for _ in range(context)]        # by_room[r]: the rows with r free places
    rooms = 0                                               # bit r is set where by_room[r] holds a row
    for i, length in enumerate(lengths):
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1       # the lowest bit that is set
            row = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
        else:
            rows.append([])
            row, room = len(rows) - 1, context
        rows[row].append(i)
        by_room[room - length].append(row)
        rooms |= 1 << (room - length)
    return rows


def _shuffled(count, *key):
    """0 ... count - 1 in an order drawn from some integers. NumPy's own shuffles may differ between its versions."""
    return np.argsort(random_uint32(np, (1, count), key=random_key(*key))[0], kind="stable")


def _with_room(tokens, context):
    """`tokens`, if they have room for a window."""
    if len(tokens.ids) < context + 1:
        raise ValueError(f"tokens: expected at least {context + 1}, a context of {context} and one for the last "
                         f"target, got {len(tokens.ids)}; use a longer text or a smaller context")
    return tokens


def _at_least_1(name, value):
    if not hasattr(value, "__index__") or value < 1:
        raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}")
    return operator.index(value)
