"""Attention, one block of scores after another: BLAS does the products, kernels the softmax between them.

The scores of a few queries with all the keys that they see are computed, used and forgotten, so that memory grows with
the length and not with its square. Formulas: `tinyllama/ops/attention.py` and `attention_tiled.py`; derived in chapters
08, 09 and 14.
"""

from typing import Any, NamedTuple

import numpy as np

from tinyllama.backends.cpu.compiling import kernel, require_float
from tinyllama.backends.cpu.exponential import exponential
from tinyllama.backends.cpu.maximum import largest
from tinyllama.ops import attention_tiled as readable
from tinyllama.ops.array import wanted
from tinyllama.ops.attention_mask import AttentionMask, check_attention_shapes

QUERIES = 64            # how many queries of a head make a block
BLOCK_BYTES = 2**19     # what the scores of a block may take: they stay in the cache of a core


class AttentionCache(NamedTuple):
    """The arguments, and one number a query."""

    q: Any              # (B, H, Tq, D)
    k: Any              # (B, KV, Tk, D)
    v: Any              # (B, KV, Tk, Dv)
    logsumexp: Any      # (B, H, Tq)
    first: Any          # (B, Tq)   the first key that a query sees
    stop: Any           # (B, Tq)   the key after the last that it sees
    scale: Any          # a number in the dtype of q


def attention_forward(q, k, v, *, causal=False, window=None, query_start=None, key_length=None, query_document=None,
                      key_document=None, scale=None):
    """y = softmax(scale · q @ kᵀ) @ v over the visible keys.

    q: (B, H, Tq, D), k: (B, KV, Tk, D), v: (B, KV, Tk, Dv)  ->  y: (B, H, Tq, Dv), cache. The settings are those of
    `AttentionMask`. In memory the heads of y follow one another within each token, the order in which a linear layer
    reads them. Where the keys that a query sees do not lie in one piece, as with documents in no order, the readable
    tiled version computes.
    """
    require_float(q, "q")
    mask = AttentionMask(causal, window, query_start, key_length, query_document, key_document)
    check_attention_shapes(q, k, v, mask)
    (batch, heads, queries, width), keys = q.shape, k.shape[2]
    first, stop, in_one_piece = _visible_keys(mask, batch, queries, keys)
    if not in_one_piece:
        return readable.attention_tiled_forward(q, k, v, scale=scale, **mask._asdict())
    scale = q.dtype.type(width**-0.5 if scale is None else scale)
    v = np.ascontiguousarray(v)             # else the cache would hold on to the product of q, k and v as well
    y = np.empty((batch, queries, heads, v.shape[3]), q.dtype).transpose(0, 2, 1, 3)        # (B, H, Tq, Dv)
    logsumexp = np.empty((batch, heads, queries), q.dtype)                                  # (B, H, Tq)
    for group in _groups(q, k):
        k_t = _transposed(group.of_keys(k))                                                 # (b, kv, D, Tk)
        for block in group.blocks(first, stop):
            scores = block.of_queries(q) @ k_t[..., block.keys]                             # (b, kv, G·t, keys)
            _softmax(block.by_head(scores), first, stop, *block.start, scale, logsumexp)
            block.put(y, scores @ block.of_keys(v))                                         # (b, kv, G·t, Dv)
    return y, AttentionCache(q, k, v, logsumexp, first, stop, scale)


def attention_backward(dy, cache, needs=None):
    """Gradients of q, k and v: each block of probabilities is computed once more.

    dy: (B, H, Tq, Dv)  ->  dq: (B, H, Tq, D), dk: (B, KV, Tk, D), dv: (B, KV, Tk, Dv).
    """
    if isinstance(cache, readable.AttentionTiledCache):
        return readable.attention_tiled_backward(dy, cache, needs)
    q, k, v, logsumexp, first, stop, scale = cache
    batch, _, keys, _ = k.shape
    dq, dk = np.empty(q.shape, q.dtype), np.zeros(k.shape, q.dtype)
    dv = np.zeros((batch, keys, *v.shape[1::2]), q.dtype).transpose(0, 2, 1, 3)             # (B, KV, Tk, Dv)
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
    return tuple(gradient if needed else None for gradient, needed in zip((dq, dk, dv), wanted(needs, 3), strict=True))


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
        return x.reshape(len(x), -1, self.group * x.shape[2], x.shape[3])

    def by_head(self, scores):
        """(b, kv, G·t, keys) -> (b, kv·G, t, keys)."""
        return scores.reshape(len(scores), self.heads.stop - self.heads.start,
                              self.queries.stop - self.queries.start, scores.shape[3])

    def put(self, y, block):
        """Write what belongs to the queries of this block, (b, kv, G·t, ...), into y (B, H, Tq, ...)."""
        y[self.rows, self.heads, self.queries] = self.by_head(block)

    def blocks(self, first, stop):
        """This block in pieces of a few queries each, with the keys that some query of the piece sees."""
        for queries in _slices(self.queries.stop, QUERIES):
            begin, end = first[self.rows, queries], stop[self.rows, queries]                # (b, t)
            seeing = end > begin
            keys = slice(int(begin[seeing].min()), int(end.max())) if seeing.any() else slice(0, 0)
            yield self._replace(queries=queries, keys=keys)


def _groups(q, k):
    """Every row and head once, in blocks of which a few queries at a time fit into the cache of a core."""
    (batch, heads, queries, _), (_, key_heads, keys, _) = q.shape, k.shape
    group = heads // key_heads
    at_once = max(BLOCK_BYTES // max(group * min(QUERIES, queries) * keys * q.itemsize, 1), 1)      # of B · KV
    for rows in _slices(batch, max(at_once // key_heads, 1)):
        for some_heads in _slices(key_heads, min(at_once, key_heads)):
            yield _Block(rows, some_heads, group, slice(0, queries), slice(0, keys))


def _slices(length, size):
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _transposed(x):
    """The last two dimensions exchanged, in memory too: BLAS takes half as long again where a factor is transposed."""
    return np.ascontiguousarray(x.swapaxes(-1, -2))


def _visible_keys(mask, batch, queries, keys):
    """(first, stop, in_one_piece): query i of row b sees the keys first[b, i] .. stop[b, i] - 1, (B, Tq) each.

    `in_one_piece` is False where it sees only some of them.
    """
    start = 0 if mask.query_start is None else np.asarray(mask.query_start).reshape(-1, 1)
    position = np.broadcast_to(start + np.arange(queries), (batch, queries))                # (B, Tq)
    length = keys if mask.key_length is None else np.asarray(mask.key_length).reshape(-1, 1)
    stop = np.minimum(keys, length) if not mask.causal else np.minimum(position + 1, np.minimum(keys, length))
    first = 0 if mask.window is None else np.maximum(position - mask.window + 1, 0)
    first, stop = (np.array(np.broadcast_to(bound, position.shape), dtype=np.int64) for bound in (first, stop))
    if mask.query_document is None:
        return first, stop, True
    documents = (np.ascontiguousarray(document, dtype=np.int64)
                 for document in (mask.query_document, mask.key_document))
    return first, stop, _narrow_to_document(*documents, first, stop)


@kernel("(int64[:, ::1], int64[:, ::1], int64[:, ::1], int64[:, ::1])")
def _narrow_to_document(query_document, key_document, first, stop):
    """Move first and stop to the keys of the query's own document; returns whether nothing else lies between them."""
    in_one_piece = True
    for b in range(first.shape[0]):
        for i in range(first.shape[1]):
            own, begin, end, seen = query_document[b, i], stop[b, i], first[b, i], 0
            for j in range(first[b, i], stop[b, i]):
                if key_document[b, j] == own:
                    begin, end, seen = min(begin, j), j + 1, seen + 1
            first[b, i], stop[b, i] = begin, end
            in_one_piece &= seen == max(end - begin, 0)
    return in_one_piece


@kernel("(T[:, :, :, ::1], int64[:, ::1], int64[:, ::1], int64, int64, int64, int64, T, T[:, :, ::1])")
def _softmax(scores, first, stop, b0, h0, i0, j0, scale, logsumexp):
    """Probabilities in place of the scores; hidden keys get 0, and so does all of a query that sees nothing."""
    zero, one = scores.dtype.type(0), scores.dtype.type(1)
    rows, heads, queries, _ = scores.shape
    for b in range(rows):
        for h in range(heads):
            for i in range(queries):
                begin, end = first[b0 + b, i0 + i] - j0, stop[b0 + b, i0 + i] - j0
                if end <= begin:
                    scores[b, h, i] = zero
                    logsumexp[b0 + b, h0 + h, i0 + i] = zero
                    continue
                scores[b, h, i, :begin] = zero
                scores[b, h, i, end:] = zero
                row = scores[b, h, i, begin:end]
                for j in range(row.size):
                    row[j] *= scale
                highest, total = largest(row), zero
                for j in range(row.size):
                    row[j] = exponential(row[j] - highest)
                    total += row[j]
                share = one / total
                for j in range(row.size):
                    row[j] *= share
                logsumexp[b0 + b, h0 + h, i0 + i] = highest + np.log(total)


@kernel("(T[:, :, :, ::1], T[:, :, :, ::1], int64[:, ::1], int64[:, ::1], int64, int64, int64, int64, T, "
        "T[:, :, ::1])")
def _softmax_backward(scores, dscores, first, stop, b0, h0, i0, j0, scale, logsumexp):
    """scores become the probabilities P again, and dP becomes dscores = scale · P · (dP - Σ P · dP)."""
    zero = scores.dtype.type(0)
    rows, heads, queries, _ = scores.shape
    for b in range(rows):
        for h in range(heads):
            for i in range(queries):
                begin, end = first[b0 + b, i0 + i] - j0, stop[b0 + b, i0 + i] - j0
                if end <= begin:
                    begin = end = 0
                scores[b, h, i, :begin] = dscores[b, h, i, :begin] = zero
                scores[b, h, i, end:] = dscores[b, h, i, end:] = zero
                row, drow = scores[b, h, i, begin:end], dscores[b, h, i, begin:end]
                normaliser = logsumexp[b0 + b, h0 + h, i0 + i]
                total = zero
                for j in range(row.size):
                    row[j] = exponential(row[j] * scale - normaliser)
                    total += row[j] * drow[j]
                for j in range(row.size):
                    drow[j] = scale * row[j] * (drow[j] - total)
