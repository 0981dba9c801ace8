"""The same attention, one tile of scores at a time: memory that grows with the length and not with its square."""

from typing import Any, NamedTuple

from tinyllama.ops.array import array_namespace, wanted
from tinyllama.ops.attention_mask import AttentionMask, check_attention_shapes


class AttentionTiledCache(NamedTuple):
    """The arguments, the result, and the logarithm of each softmax's denominator: no (Tq, Tk) array.

    The logarithm of a query that sees no key is set to 0; every probability recomputed from it is exp(lowest) = 0.
    """

    q: Any              # (B, H, Tq, D)
    k: Any              # (B, KV, Tk, D)
    v: Any              # (B, KV, Tk, Dv)
    y: Any              # (B, H, Tq, Dv)
    logsumexp: Any      # (B, H, Tq, 1)
    mask: AttentionMask
    scale: float
    tile: int


def attention_tiled_forward(q, k, v, *, causal=False, window=None, query_start=None, key_length=None,
                            query_document=None, key_document=None, scale=None, tile=64):
    """y = softmax(scale · q @ kᵀ) @ v over the visible keys, as `attention_forward`, in tiles of `tile` × `tile`.

    q: (B, H, Tq, D), k: (B, KV, Tk, D), v: (B, KV, Tk, Dv)  ->  y: (B, H, Tq, Dv), cache.

    For each tile of queries, the keys arrive tile by tile, and three things are carried along: the largest score so far
    m, the sum l of exp(score - m), and o = exp(score - m) @ v. When a later tile has a larger score, l and o
    are multiplied by exp(old m - new m), as if the new maximum had been known from the start. At the end y = o / l.

    Raises ValueError where shapes or settings do not fit together.
    Sources: Milakov & Gimelshein 2018 (online softmax); Dao et al. 2022, algorithm 1. Derived in chapter 14.
    """
    if tile < 1:
        raise ValueError(f"tile: expected at least 1, got {tile}")
    mask = AttentionMask(causal, window, query_start, key_length, query_document, key_document)
    check_attention_shapes(q, k, v, mask)
    xp = array_namespace(q)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    lowest = float(xp.finfo(q.dtype).min)
    keys, values = _repeat_heads(k, q), _repeat_heads(v, q)                             # (B, H, Tk, D), (B, H, Tk, Dv)
    y = xp.zeros((*q.shape[:3], v.shape[3]), dtype=q.dtype)                             # (B, H, Tq, Dv)
    logsumexp = xp.zeros((*q.shape[:3], 1), dtype=q.dtype)                              # (B, H, Tq, 1)

    for rows in _tiles(q.shape[2], tile):
        i = slice(rows.start, rows.stop)
        m = xp.full((*q.shape[:2], len(rows), 1), lowest, dtype=q.dtype)                # (B, H, tile, 1)
        l = xp.zeros_like(m)                                                            # (B, H, tile, 1)  # noqa: E741
        o = xp.zeros_like(y[:, :, i])                                                   # (B, H, tile, Dv)
        for columns in _tiles(k.shape[2], tile):
            if mask.hides_all(rows, columns):
                continue
            j = slice(columns.start, columns.stop)
            scores = (scale * q[:, :, i]) @ keys[:, :, j].swapaxes(-1, -2)              # (B, H, tile, tile)
            visible = mask.visible(xp, rows, columns)
            if visible is not None:
                scores = xp.where(visible, scores, lowest)
            new_m = xp.maximum(m, xp.max(scores, axis=-1, keepdims=True))               # (B, H, tile, 1)
            p = xp.exp(scores - new_m)                                                  # (B, H, tile, tile)
            if visible is not None:
                p = p * visible                     # matters while a query has seen nothing but hidden keys
            rescale = xp.exp(m - new_m)
            l = l * rescale + xp.sum(p, axis=-1, keepdims=True)                         # (B, H, tile, 1)  # noqa: E741
            o = o * rescale + p @ values[:, :, j]                                       # (B, H, tile, Dv)
            m = new_m
        saw_nothing = l == 0
        l = xp.where(saw_nothing, 1, l)                                                 # noqa: E741
        y[:, :, i] = o / l
        logsumexp[:, :, i] = xp.where(saw_nothing, 0, m + xp.log(l))
    return y, AttentionTiledCache(q, k, v, y, logsumexp, mask, scale, tile)


def attention_tiled_backward(dy, cache, needs=None):
    """Gradients of q, k and v, recomputing each tile of probabilities from the scores and the log-sum-exp.

    dy: (B, H, Tq, Dv)  ->  dq: (B, H, Tq, D), dk: (B, KV, Tk, D), dv: (B, KV, Tk, Dv).

        P       = exp(scores - logsumexp)
        dv      = Pᵀ @ dy                       dP = dy @ vᵀ
        dscores = P · (dP - Σ dy · y)           the sum over a whole row of P · dP, without the whole row:
                                                Σ_j P_j (dy @ v_j) = dy @ Σ_j P_j v_j = dy @ y
        dq      = scale · (dscores @ k)         dk = dscoresᵀ @ (scale · q)

    Sources: Dao et al. 2022, appendix B (the row sum); Dao 2023 (one log-sum-exp a row).
    """
    q, k, v, y, logsumexp, mask, scale, tile = cache
    needs_q, needs_k, needs_v = wanted(needs, 3)
    xp = array_namespace(dy)
    keys, values = _repeat_heads(k, q), _repeat_heads(v, q)                             # (B, H, Tk, D), (B, H, Tk, Dv)
    dq, dkeys, dvalues = xp.zeros_like(q), xp.zeros_like(keys), xp.zeros_like(values)   # as q, keys, values
    lowest = float(xp.finfo(q.dtype).min)
    row_sums = xp.sum(dy * y, axis=-1, keepdims=True)                                   # (B, H, Tq, 1)

    for rows in _tiles(q.shape[2], tile):
        i = slice(rows.start, rows.stop)
        for columns in _tiles(k.shape[2], tile):
            if mask.hides_all(rows, columns):
                continue
            j = slice(columns.start, columns.stop)
            scores = (scale * q[:, :, i]) @ keys[:, :, j].swapaxes(-1, -2)              # (B, H, tile, tile)
            visible = mask.visible(xp, rows, columns)
            if visible is not None:
                scores = xp.where(visible, scores, lowest)
            p = xp.exp(scores - logsumexp[:, :, i])                                     # (B, H, tile, tile)
            dvalues[:, :, j] += p.swapaxes(-1, -2) @ dy[:, :, i]                        # (B, H, tile, Dv)
            dp = dy[:, :, i] @ values[:, :, j].swapaxes(-1, -2)                         # (B, H, tile, tile)
            dscores = p * (dp - row_sums[:, :, i])                                      # (B, H, tile, tile)
            dq[:, :, i] += scale * (dscores @ keys[:, :, j])                            # (B, H, tile, D)
            dkeys[:, :, j] += dscores.swapaxes(-1, -2) @ (scale * q[:, :, i])           # (B, H, tile, D)
    return (dq if needs_q else None,
            _sum_heads(dkeys, k) if needs_k else None,
            _sum_heads(dvalues, v) if needs_v else None)


def _tiles(length, tile):
    return [range(start, min(start + tile, length)) for start in range(0, length, tile)]


def _repeat_heads(x, q):
    """Give every query head its own copy of the key head that it reads: (B, KV, T, D) -> (B, H, T, D)."""
    xp = array_namespace(x)
    return xp.repeat(x, q.shape[1] // x.shape[1], axis=1)


def _sum_heads(dx, x):
    """The transpose of copying: the gradients of the copies add up. (B, H, T, D) -> (B, KV, T, D)."""
    xp = array_namespace(dx)
    batch, heads, length, dim = dx.shape
    return xp.sum(dx.reshape(batch, x.shape[1], heads // x.shape[1], length, dim), axis=2)
