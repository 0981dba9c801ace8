"""Attention, one block of scores after another: BLAS does the products, kernels the softmax between them.

The scores of a few queries with all the keys that they see are computed, used and forgotten, so that memory grows with
the length and not with its square. Formulas: `tinyllama/ops/attention.py` and `attention_tiled.py`; derived in chapters
08, 09 and 14.
"""

from typing import Any, NamedTuple

import numpy as np

from tinyllama.backends.cpu import attention_blocks as blocks
from tinyllama.backends.cpu import attention_fused as fused
from tinyllama.backends.cpu.blas import product_address
from tinyllama.backends.cpu.compiling import kernel, require_float
from tinyllama.ops import attention_tiled as readable
from tinyllama.ops.array import require_shape, wanted
from tinyllama.ops.attention_mask import AttentionMask, check_attention_shapes


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
    k = np.asarray(k, q.dtype)
    v = np.ascontiguousarray(v, q.dtype)    # else the cache would hold on to the product of q, k and v as well
    y = np.empty((batch, queries, heads, v.shape[3]), q.dtype).transpose(0, 2, 1, 3)        # (B, H, Tq, Dv)
    logsumexp = np.empty((batch, heads, queries), q.dtype)                                  # (B, H, Tq)
    compute = fused if product_address(q.dtype) else blocks
    compute.forward(q, k, v, first, stop, scale, y, logsumexp)
    return y, AttentionCache(q, k, v, logsumexp, first, stop, scale)


def attention_backward(dy, cache, needs=None):
    """Gradients of q, k and v: each block of probabilities is computed once more.

    dy: (B, H, Tq, Dv)  ->  dq: (B, H, Tq, D), dk: (B, KV, Tk, D), dv: (B, KV, Tk, Dv).
    """
    if isinstance(cache, readable.AttentionTiledCache):
        return readable.attention_tiled_backward(dy, cache, needs)
    q, k, v, logsumexp, first, stop, scale = cache
    require_shape(dy, (*q.shape[:3], v.shape[3]), "dy", "y")
    dy = np.asarray(dy, q.dtype)
    batch, _, keys, _ = k.shape
    dq, dk = np.empty(q.shape, q.dtype), np.zeros(k.shape, q.dtype)
    dv = np.zeros((batch, keys, *v.shape[1::2]), q.dtype).transpose(0, 2, 1, 3)             # (B, KV, Tk, Dv)
    compute = fused if product_address(q.dtype) else blocks
    compute.backward(dy, q, k, v, first, stop, scale, logsumexp, dq, dk, dv)
    return tuple(gradient if needed else None for gradient, needed in zip((dq, dk, dv), wanted(needs, 3), strict=True))


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
