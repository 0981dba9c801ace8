"""Attention where BLAS cannot be called from a kernel: the loop over the blocks in Python, the products in NumPy.

Slower than `attention_fused.py` where several workers wait for Python's global lock; otherwise the same.
"""

from typing import NamedTuple

import numpy as np

from tinyllama.backends.cpu.attention_softmax import softmax_row, softmax_row_backward
from tinyllama.backends.cpu.compiling import kernel

BLOCK_QUERIES = 64      # how many queries of a head make a block
BLOCK_BYTES = 2**19     # what the scores of a block may take: they stay in the cache of a core


def forward(q, k, v, first, stop, scale, y, logsumexp):
    """Write y (B, H, Tq, Dv) and logsumexp (B, H, Tq)."""
    for group in _groups(q, k):
        k_t = _transposed(group.of_keys(k))                                                 # (b, kv, D, Tk)
        for block in group.blocks(first, stop):
            scores = block.of_queries(q) @ k_t[..., block.keys]                             # (b, kv, G·t, keys)
            _softmax(block.by_head(scores), first, stop, *block.start, scale, logsumexp)
            block.put(y, scores @ block.of_keys(v))                                         # (b, kv, G·t, Dv)


def backward(dy, q, k, v, first, stop, scale, logsumexp, dq, dk, dv):
    """Write dq (B, H, Tq, D); add to dk (B, KV, Tk, D) and dv (B, KV, Tk, Dv)."""
    for group in _groups(q, k):
        k_t, v_t = _transposed(group.of_keys(k)), _transposed(group.of_keys(v))             # (b, kv, D or Dv, Tk)
        for block in group.blocks(first, stop):
            q_block, dy_block = block.of_queries(q), block.of_queries(dy)                   # (b, kv, G·t, D or Dv)
            scores = q_block @ k_t[..., block.keys]                                         # (b, kv, G·t, keys)
            dscores = dy_block @ v_t[..., block.keys]                                       # (b, kv, G·t, keys)
            _softmax_backward(block.by_head(scores), block.by_head(dscores), first, stop, *block.start, scale,
                              logsumexp)
            block.put(dq, dscores @ block.of_keys(k))                                       # (b, kv, G·t, D)
            block.of_keys(dk)[...] += dscores.swapaxes(-1, -2) @ q_block                    # (b, kv, keys, D)
            block.of_keys(dv)[...] += scores.swapaxes(-1, -2) @ dy_block                    # (b, kv, keys, Dv)


class _Block(NamedTuple):
    """Some rows of the batch, some heads of the keys with all heads that read them, some queries, and some keys."""

    rows: slice             # of B
    key_heads: slice        # of KV
    group: int              # G = H / KV
    queries: slice          # of Tq
    keys: slice             # of Tk

    @property
    def heads(self):
        """The query heads of this block, of H."""
        return slice(self.key_heads.start * self.group, self.key_heads.stop * self.group)

    @property
    def start(self):
        """Where the block begins in B, H, Tq and Tk."""
        return self.rows.start, self.heads.start, self.queries.start, self.keys.start

    def of_keys(self, x):
        """(B, KV, Tk, ...) -> a view (b, kv, keys, ...)."""
        return x[self.rows, self.key_heads, self.keys]

    def of_queries(self, x):
        """(B, H, Tq, ...) -> (b, kv, G·t, ...): the queries of all heads that share a key head, stacked."""
        x = x[self.rows, self.heads, self.queries]                                          # (b, kv·G, t, ...)
        return x.reshape(len(x), x.shape[1] // self.group, self.group * x.shape[2], x.shape[3])

    def by_head(self, scores):
        """(b, kv, G·t, keys) -> (b, kv·G, t, keys)."""
        return scores.reshape(len(scores), self.heads.stop - self.heads.start,
                              self.queries.stop - self.queries.start, scores.shape[3])

    def put(self, y, block):
        """Write what belongs to the queries of this block, (b, kv, G·t, ...), into y (B, H, Tq, ...)."""
        y[self.rows, self.heads, self.queries] = self.by_head(block)

    def blocks(self, first, stop):
        """This block in pieces of a few queries each, with the keys that some query of the piece sees."""
        for queries in _slices(self.queries.stop, BLOCK_QUERIES):
            begin, end = first[self.rows, queries], stop[self.rows, queries]                # (b, t)
            seeing = end > begin
            keys = slice(int(begin[seeing].min()), int(end.max())) if seeing.any() else slice(0, 0)
            yield self._replace(queries=queries, keys=keys)


def _groups(q, k):
    """Every row and head once, in blocks of which a few queries at a time fit into the cache of a core."""
    (batch, heads, queries, _), (_, key_heads, keys, _) = q.shape, k.shape
    group = heads // key_heads
    at_once = max(BLOCK_BYTES // max(group * min(BLOCK_QUERIES, queries) * keys * q.itemsize, 1), 1)    # of B · KV
    for rows in _slices(batch, max(at_once // key_heads, 1)):
        for some_heads in _slices(key_heads, min(at_once, key_heads)):
            yield _Block(rows, some_heads, group, slice(0, queries), slice(0, keys))


def _slices(length, size):
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _transposed(x):
    """The last two dimensions exchanged, in memory too: BLAS takes half as long again where a factor is transposed."""
    return np.ascontiguousarray(x.swapaxes(-1, -2))


@kernel("(T[:, :, :, ::1], int64[:, ::1], int64[:, ::1], int64, int64, int64, int64, T, T[:, :, ::1])")
def _softmax(scores, first, stop, b0, h0, i0, j0, scale, logsumexp):
    rows, heads, queries, _ = scores.shape
    for b in range(rows):
        for h in range(heads):
            for i in range(queries):
                begin, end = first[b0 + b, i0 + i] - j0, stop[b0 + b, i0 + i] - j0
                logsumexp[b0 + b, h0 + h, i0 + i] = softmax_row(scores[b, h, i], begin, end, scale)


@kernel("(T[:, :, :, ::1], T[:, :, :, ::1], int64[:, ::1], int64[:, ::1], int64, int64, int64, int64, T, "
        "T[:, :, ::1])")
def _softmax_backward(scores, dscores, first, stop, b0, h0, i0, j0, scale, logsumexp):
    rows, heads, queries, _ = scores.shape
    for b in range(rows):
        for h in range(heads):
            for i in range(queries):
                begin, end = first[b0 + b, i0 + i] - j0, stop[b0 + b, i0 + i] - j0
                softmax_row_backward(scores[b, h, i], dscores[b, h, i], begin, end, scale,
                                     logsumexp[b0 + b, h0 + h, i0 + i])
