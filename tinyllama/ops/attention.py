"""Scaled dot-product attention, with every score in memory: the version to read first."""

from typing import Any, NamedTuple

from tinyllama.ops.array import array_namespace, wanted
from tinyllama.ops.attention_mask import AttentionMask, check_attention_shapes
from tinyllama.ops.softmax import softmax_backward, softmax_forward


class AttentionCache(NamedTuple):
    """The arguments and the probabilities, (B, H, Tq, Tk): memory that grows with the square of the length.

    The row of a query that sees no key holds equal probabilities, which the result ignores.
    """

    q: Any                  # (B, H, Tq, D)
    k: Any                  # (B, KV, Tk, D)
    v: Any                  # (B, KV, Tk, Dv)
    probabilities: Any      # (B, H, Tq, Tk)
    softmax_cache: Any
    sees_a_key: Any         # booleans that broadcast against (B, H, Tq, 1); None where every key is visible
    scale: float


def attention_forward(q, k, v, *, causal=False, window=None, query_start=None, key_length=None, query_document=None,
                      key_document=None, scale=None, softmax_forward=softmax_forward):
    """y = P @ v,   P = softmax(scale · q @ kᵀ) over the visible keys.

    q: (B, H, Tq, D), k: (B, KV, Tk, D), v: (B, KV, Tk, Dv)  ->  y: (B, H, Tq, Dv), cache.

    `scale` is 1/sqrt(D) unless given. H = KV is multi-head attention, KV = 1 multi-query, anything between is
    grouped-query: query head h reads key head h // (H / KV). Which keys are visible is said by the settings that
    `AttentionMask` explains; a query that sees no key gives zeros. k and v of another sequence make it
    cross-attention.

    Raises ValueError where shapes or settings do not fit together.
    Sources: Vaswani et al. 2017, eq. 1; Ainslie et al. 2023 (grouped queries). Derived in chapters 08 and 09.
    """
    mask = AttentionMask(causal, window, query_start, key_length, query_document, key_document)
    check_attention_shapes(q, k, v, mask)
    xp = array_namespace(q)
    scale = q.shape[-1] ** -0.5 if scale is None else scale

    grouped_q = _per_key_head(scale * q, k)                                             # (B, KV, G·Tq, D), G = H / KV
    scores = grouped_q @ k.swapaxes(-1, -2)                                             # (B, KV, G·Tq, Tk)
    scores = _per_query_head(scores, q)                                                 # (B, H, Tq, Tk)
    visible = mask.visible(xp, range(q.shape[2]), range(k.shape[2]))
    sees_a_key = None
    if visible is not None:
        scores = xp.where(visible, scores, float(xp.finfo(scores.dtype).min))
        sees_a_key = xp.any(visible, axis=-1, keepdims=True)        # broadcasts against (B, H, Tq, 1)
    probabilities, softmax_cache = softmax_forward(scores)                              # (B, H, Tq, Tk)
    y = _per_key_head(probabilities, k) @ v                                             # (B, KV, G·Tq, Dv)
    y = _per_query_head(y, q)                                                           # (B, H, Tq, Dv)
    if visible is not None:
        y = xp.where(sees_a_key, y, 0)
    return y, AttentionCache(q, k, v, probabilities, softmax_cache, sees_a_key, scale)


def attention_backward(dy, cache, needs=None, *, softmax_backward=softmax_backward):
    """Gradients of q, k and v: the steps of `attention_forward`, last first.

    dy: (B, H, Tq, Dv)  ->  dq: (B, H, Tq, D), dk: (B, KV, Tk, D), dv: (B, KV, Tk, Dv).

        dv      = Pᵀ @ dy                       dP = dy @ vᵀ
        dscores = softmax_backward(dP)          zero where a key is hidden, since P is zero there; in a row that
                                                sees nothing P is not, but dy is
        dq      = scale · (dscores @ k)         dk = dscoresᵀ @ (scale · q)

    The query heads of a group share a key head; their gradients are summed because they lie stacked as the rows of one
    product.
    """
    q, k, v, probabilities, softmax_cache, sees_a_key, scale = cache
    needs_q, needs_k, needs_v = wanted(needs, 3)
    if sees_a_key is not None:
        dy = array_namespace(dy).where(sees_a_key, dy, 0)   # a query that sees nothing gave zeros, whatever q, k, v
    dy = _per_key_head(dy, k)                                                           # (B, KV, G·Tq, Dv)
    dv = _per_key_head(probabilities, k).swapaxes(-1, -2) @ dy if needs_v else None     # (B, KV, Tk, Dv)
    if not (needs_q or needs_k):
        return None, None, dv
    dprobabilities = _per_query_head(dy @ v.swapaxes(-1, -2), q)                        # (B, H, Tq, Tk)
    dscores = _per_key_head(softmax_backward(dprobabilities, softmax_cache), k)         # (B, KV, G·Tq, Tk)
    dq = scale * _per_query_head(dscores @ k, q) if needs_q else None                   # (B, H, Tq, D)
    dk = dscores.swapaxes(-1, -2) @ _per_key_head(scale * q, k) if needs_k else None    # (B, KV, Tk, D)
    return dq, dk, dv


def _per_key_head(x, k):
    """Stack the queries of all heads that share a key head: (B, H, Tq, ...) -> (B, KV, G·Tq, ...), with G = H / KV."""
    batch, heads, queries, last = x.shape
    return x.reshape(batch, k.shape[1], heads // k.shape[1] * queries, last)


def _per_query_head(x, q):
    """The way back: (B, KV, G·Tq, ...) -> (B, H, Tq, ...)."""
    return x.reshape(*q.shape[:3], x.shape[-1])
