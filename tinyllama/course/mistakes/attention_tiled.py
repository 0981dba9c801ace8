"""Tiled attention, wrong: what is carried from tile to tile, and what belongs to a whole row."""

from tinyllama.course.mistakes.attention import repeat_heads, sum_heads
from tinyllama.ops.array import array_namespace
from tinyllama.ops.attention_mask import AttentionMask
from tinyllama.ops.attention_tiled import AttentionTiledCache


def does_not_rescale(q, k, v, *, causal=False, window=None, query_start=None, key_length=None,
                     query_document=None, key_document=None, scale=None, tile=64):
    """When a later tile has a larger maximum, what was summed before is not brought down to it."""
    xp = array_namespace(q)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    mask = AttentionMask(causal, window, query_start, key_length, query_document, key_document)
    lowest = float(xp.finfo(q.dtype).min)
    keys, values = repeat_heads(k, q), repeat_heads(v, q)               # (B, H, Tk, D), (B, H, Tk, Dv)
    y = xp.zeros((*q.shape[:3], v.shape[3]), dtype=q.dtype)             # (B, H, Tq, Dv)
    logsumexp = xp.zeros((*q.shape[:3], 1), dtype=q.dtype)              # (B, H, Tq, 1)
    for i in tiles(q.shape[2], tile):
        m = xp.full_like(logsumexp[:, :, i.start:i.stop], lowest)       # (B, H, tile, 1)
        denominator = xp.zeros_like(m)                                  # (B, H, tile, 1)
        o = xp.zeros_like(y[:, :, i.start:i.stop])                      # (B, H, tile, Dv)
        for j in tiles(k.shape[2], tile):
            scores = scale * q[:, :, i.start:i.stop] @ keys[:, :, j.start:j.stop].swapaxes(-1, -2)
            visible = mask.visible(xp, i, j)
            if visible is not None:
                scores = xp.where(visible, scores, lowest)              # (B, H, tile, tile)
            new_m = xp.maximum(m, xp.max(scores, axis=-1, keepdims=True))
            p = xp.exp(scores - new_m)                                  # (B, H, tile, tile)
            if visible is not None:
                p = p * visible
            denominator = denominator + xp.sum(p, axis=-1, keepdims=True)
            o = o + p @ values[:, :, j.start:j.stop]
            m = new_m
        saw_nothing = denominator == 0
        denominator = xp.where(saw_nothing, 1, denominator)
        y[:, :, i.start:i.stop] = o / denominator
        logsumexp[:, :, i.start:i.stop] = xp.where(saw_nothing, 0, m + xp.log(denominator))
    return y, AttentionTiledCache(q, k, v, y, logsumexp, mask, scale, tile)


def rescales_the_denominator_only(q, k, v, *, causal=False, window=None, query_start=None, key_length=None,
                                  query_document=None, key_document=None, scale=None, tile=64):
    """When the maximum grows, the denominator is brought down to it, but the numerator is not."""
    xp = array_namespace(q)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    mask = AttentionMask(causal, window, query_start, key_length, query_document, key_document)
    lowest = float(xp.finfo(q.dtype).min)
    keys, values = repeat_heads(k, q), repeat_heads(v, q)               # (B, H, Tk, D), (B, H, Tk, Dv)
    y = xp.zeros((*q.shape[:3], v.shape[3]), dtype=q.dtype)             # (B, H, Tq, Dv)
    logsumexp = xp.zeros((*q.shape[:3], 1), dtype=q.dtype)              # (B, H, Tq, 1)
    for i in tiles(q.shape[2], tile):
        m = xp.full_like(logsumexp[:, :, i.start:i.stop], lowest)       # (B, H, tile, 1)
        denominator = xp.zeros_like(m)                                  # (B, H, tile, 1)
        o = xp.zeros_like(y[:, :, i.start:i.stop])                      # (B, H, tile, Dv)
        for j in tiles(k.shape[2], tile):
            scores = scale * q[:, :, i.start:i.stop] @ keys[:, :, j.start:j.stop].swapaxes(-1, -2)
            visible = mask.visible(xp, i, j)
            if visible is not None:
                scores = xp.where(visible, scores, lowest)              # (B, H, tile, tile)
            new_m = xp.maximum(m, xp.max(scores, axis=-1, keepdims=True))
            p = xp.exp(scores - new_m)                                  # (B, H, tile, tile)
            if visible is not None:
                p = p * visible
            denominator = denominator * xp.exp(m - new_m) + xp.sum(p, axis=-1, keepdims=True)
            o = o + p @ values[:, :, j.start:j.stop]
            m = new_m
        saw_nothing = denominator == 0
        denominator = xp.where(saw_nothing, 1, denominator)
        y[:, :, i.start:i.stop] = o / denominator
        logsumexp[:, :, i.start:i.stop] = xp.where(saw_nothing, 0, m + xp.log(denominator))
    return y, AttentionTiledCache(q, k, v, y, logsumexp, mask, scale, tile)


def normalises_each_tile(q, k, v, *, causal=False, window=None, query_start=None, key_length=None,
                         query_document=None, key_document=None, scale=None, tile=64):
    """Each tile is normalised by itself and the tiles are added: a softmax for each tile, not for the row."""
    xp = array_namespace(q)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    mask = AttentionMask(causal, window, query_start, key_length, query_document, key_document)
    lowest = float(xp.finfo(q.dtype).min)
    keys, values = repeat_heads(k, q), repeat_heads(v, q)               # (B, H, Tk, D), (B, H, Tk, Dv)
    y = xp.zeros((*q.shape[:3], v.shape[3]), dtype=q.dtype)             # (B, H, Tq, Dv)
    logsumexp = xp.zeros((*q.shape[:3], 1), dtype=q.dtype)              # (B, H, Tq, 1)
    for i in tiles(q.shape[2], tile):
        m = xp.full_like(logsumexp[:, :, i.start:i.stop], lowest)       # (B, H, tile, 1)
        denominator = xp.zeros_like(m)                                  # (B, H, tile, 1)
        o = xp.zeros_like(y[:, :, i.start:i.stop])                      # (B, H, tile, Dv)
        for j in tiles(k.shape[2], tile):
            scores = scale * q[:, :, i.start:i.stop] @ keys[:, :, j.start:j.stop].swapaxes(-1, -2)
            visible = mask.visible(xp, i, j)
            if visible is not None:
                scores = xp.where(visible, scores, lowest)              # (B, H, tile, tile)
            new_m = xp.maximum(m, xp.max(scores, axis=-1, keepdims=True))
            p = xp.exp(scores - new_m)                                  # (B, H, tile, tile)
            if visible is not None:
                p = p * visible
            rescale = xp.exp(m - new_m)
            tile_sum = xp.sum(p, axis=-1, keepdims=True)                # (B, H, tile, 1)
            denominator = denominator * rescale + tile_sum
            o = o + p @ values[:, :, j.start:j.stop] / xp.where(tile_sum == 0, 1, tile_sum)
            m = new_m
        saw_nothing = denominator == 0
        denominator = xp.where(saw_nothing, 1, denominator)
        y[:, :, i.start:i.stop] = o
        logsumexp[:, :, i.start:i.stop] = xp.where(saw_nothing, 0, m + xp.log(denominator))
    return y, AttentionTiledCache(q, k, v, y, logsumexp, mask, scale, tile)


def forgets_the_row_sum(dy, cache, needs=None):
    """The softmax's denominator is taken for a constant: Σ dy · y is left out."""
    q, k, v, _, logsumexp, mask, scale, tile = cache
    xp = array_namespace(dy)
    keys, values = repeat_heads(k, q), repeat_heads(v, q)               # (B, H, Tk, D), (B, H, Tk, Dv)
    dq, dkeys, dvalues = xp.zeros_like(q), xp.zeros_like(keys), xp.zeros_like(values)
    for i in tiles(q.shape[2], tile):
        q_i, dy_i = q[:, :, i.start:i.stop], dy[:, :, i.start:i.stop]   # (B, H, tile, D), (B, H, tile, Dv)
        for j in tiles(k.shape[2], tile):
            keys_j, values_j = keys[:, :, j.start:j.stop], values[:, :, j.start:j.stop]
            p = xp.exp(scale * q_i @ keys_j.swapaxes(-1, -2) - logsumexp[:, :, i.start:i.stop])
            visible = mask.visible(xp, i, j)
            if visible is not None:
                p = p * visible                                         # (B, H, tile, tile)
            dp = dy_i @ values_j.swapaxes(-1, -2)                       # (B, H, tile, tile)
            dscores = scale * p * dp
            dq[:, :, i.start:i.stop] += dscores @ keys_j
            dkeys[:, :, j.start:j.stop] += dscores.swapaxes(-1, -2) @ q_i
            dvalues[:, :, j.start:j.stop] += p.swapaxes(-1, -2) @ dy_i
    return dq, sum_heads(dkeys, k), sum_heads(dvalues, v)


def sums_over_the_tile_only(dy, cache, needs=None):
    """Σ P · dP runs over the keys of the tile instead of the whole row."""
    q, k, v, _, logsumexp, mask, scale, tile = cache
    xp = array_namespace(dy)
    keys, values = repeat_heads(k, q), repeat_heads(v, q)               # (B, H, Tk, D), (B, H, Tk, Dv)
    dq, dkeys, dvalues = xp.zeros_like(q), xp.zeros_like(keys), xp.zeros_like(values)
    for i in tiles(q.shape[2], tile):
        q_i, dy_i = q[:, :, i.start:i.stop], dy[:, :, i.start:i.stop]   # (B, H, tile, D), (B, H, tile, Dv)
        for j in tiles(k.shape[2], tile):
            keys_j, values_j = keys[:, :, j.start:j.stop], values[:, :, j.start:j.stop]
            p = xp.exp(scale * q_i @ keys_j.swapaxes(-1, -2) - logsumexp[:, :, i.start:i.stop])
            visible = mask.visible(xp, i, j)
            if visible is not None:
                p = p * visible                                         # (B, H, tile, tile)
            dp = dy_i @ values_j.swapaxes(-1, -2)                       # (B, H, tile, tile)
            dscores = scale * p * (dp - xp.sum(p * dp, axis=-1, keepdims=True))
            dq[:, :, i.start:i.stop] += dscores @ keys_j
            dkeys[:, :, j.start:j.stop] += dscores.swapaxes(-1, -2) @ q_i
            dvalues[:, :, j.start:j.stop] += p.swapaxes(-1, -2) @ dy_i
    return dq, sum_heads(dkeys, k), sum_heads(dvalues, v)


def forgets_the_mask(dy, cache, needs=None):
    """The probabilities are recomputed without the mask."""
    q, k, v, y, logsumexp, _, scale, tile = cache
    xp = array_namespace(dy)
    keys, values = repeat_heads(k, q), repeat_heads(v, q)               # (B, H, Tk, D), (B, H, Tk, Dv)
    dq, dkeys, dvalues = xp.zeros_like(q), xp.zeros_like(keys), xp.zeros_like(values)
    row_sums = xp.sum(dy * y, axis=-1, keepdims=True)                   # (B, H, Tq, 1)
    for i in tiles(q.shape[2], tile):
        q_i, dy_i = q[:, :, i.start:i.stop], dy[:, :, i.start:i.stop]   # (B, H, tile, D), (B, H, tile, Dv)
        for j in tiles(k.shape[2], tile):
            keys_j, values_j = keys[:, :, j.start:j.stop], values[:, :, j.start:j.stop]
            p = xp.exp(scale * q_i @ keys_j.swapaxes(-1, -2) - logsumexp[:, :, i.start:i.stop])
            dp = dy_i @ values_j.swapaxes(-1, -2)                       # (B, H, tile, tile)
            dscores = scale * p * (dp - row_sums[:, :, i.start:i.stop])
            dq[:, :, i.start:i.stop] += dscores @ keys_j
            dkeys[:, :, j.start:j.stop] += dscores.swapaxes(-1, -2) @ q_i
            dvalues[:, :, j.start:j.stop] += p.swapaxes(-1, -2) @ dy_i
    return dq, sum_heads(dkeys, k), sum_heads(dvalues, v)


def keeps_the_last_tile(dy, cache, needs=None):
    """dq is assigned anew by each tile of keys instead of added up: only the last tile counts."""
    q, k, v, y, logsumexp, mask, scale, tile = cache
    xp = array_namespace(dy)
    keys, values = repeat_heads(k, q), repeat_heads(v, q)               # (B, H, Tk, D), (B, H, Tk, Dv)
    dq, dkeys, dvalues = xp.zeros_like(q), xp.zeros_like(keys), xp.zeros_like(values)
    row_sums = xp.sum(dy * y, axis=-1, keepdims=True)                   # (B, H, Tq, 1)
    for i in tiles(q.shape[2], tile):
        q_i, dy_i = q[:, :, i.start:i.stop], dy[:, :, i.start:i.stop]   # (B, H, tile, D), (B, H, tile, Dv)
        for j in tiles(k.shape[2], tile):
            keys_j, values_j = keys[:, :, j.start:j.stop], values[:, :, j.start:j.stop]
            p = xp.exp(scale * q_i @ keys_j.swapaxes(-1, -2) - logsumexp[:, :, i.start:i.stop])
            visible = mask.visible(xp, i, j)
            if visible is not None:
                p = p * visible                                         # (B, H, tile, tile)
            dp = dy_i @ values_j.swapaxes(-1, -2)                       # (B, H, tile, tile)
            dscores = scale * p * (dp - row_sums[:, :, i.start:i.stop])
            dq[:, :, i.start:i.stop] = dscores @ keys_j
            dkeys[:, :, j.start:j.stop] += dscores.swapaxes(-1, -2) @ q_i
            dvalues[:, :, j.start:j.stop] += p.swapaxes(-1, -2) @ dy_i
    return dq, sum_heads(dkeys, k), sum_heads(dvalues, v)


def keeps_a_gradient_for_each_query_head(dy, cache, needs=None):
    """dk and dv have one array for each query head: those that share a key head are not summed."""
    q, k, v, y, logsumexp, mask, scale, tile = cache
    xp = array_namespace(dy)
    keys, values = repeat_heads(k, q), repeat_heads(v, q)               # (B, H, Tk, D), (B, H, Tk, Dv)
    dq, dkeys, dvalues = xp.zeros_like(q), xp.zeros_like(keys), xp.zeros_like(values)
    row_sums = xp.sum(dy * y, axis=-1, keepdims=True)                   # (B, H, Tq, 1)
    for i in tiles(q.shape[2], tile):
        q_i, dy_i = q[:, :, i.start:i.stop], dy[:, :, i.start:i.stop]   # (B, H, tile, D), (B, H, tile, Dv)
        for j in tiles(k.shape[2], tile):
            keys_j, values_j = keys[:, :, j.start:j.stop], values[:, :, j.start:j.stop]
            p = xp.exp(scale * q_i @ keys_j.swapaxes(-1, -2) - logsumexp[:, :, i.start:i.stop])
            visible = mask.visible(xp, i, j)
            if visible is not None:
                p = p * visible                                         # (B, H, tile, tile)
            dp = dy_i @ values_j.swapaxes(-1, -2)                       # (B, H, tile, tile)
            dscores = scale * p * (dp - row_sums[:, :, i.start:i.stop])
            dq[:, :, i.start:i.stop] += dscores @ keys_j
            dkeys[:, :, j.start:j.stop] += dscores.swapaxes(-1, -2) @ q_i
            dvalues[:, :, j.start:j.stop] += p.swapaxes(-1, -2) @ dy_i
    return dq, dkeys, dvalues


def tiles(length, tile):
    """The ranges that cut `length` into pieces of `tile`, the last one perhaps shorter."""
    return [range(start, min(start + tile, length)) for start in range(0, length, tile)]


MISTAKES = {
    "attention_tiled_backward": [
        (forgets_the_row_sum, "missing term"),
        (sums_over_the_tile_only, "wrong sum"),
        (forgets_the_mask, "mask"),
        (keeps_the_last_tile, "overwritten"),
        (keeps_a_gradient_for_each_query_head, "wrong sum"),
    ],
    "attention_tiled_forward": [
        (does_not_rescale, "missing term"),
        (rescales_the_denominator_only, "missing term"),
        (normalises_each_tile, "wrong sum"),
    ],
}
