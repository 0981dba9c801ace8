"""Attention, wrong: the mask, the whole Jacobian of the softmax, the scale of both factors, the shared key heads."""

from tinyllama.ops.array import array_namespace
from tinyllama.ops.attention import AttentionCache
from tinyllama.ops.attention_mask import AttentionMask
from tinyllama.ops.softmax import softmax_backward, softmax_forward


def keeps_the_softmax_diagonal_only(dy, cache, needs=None, *, softmax_backward=softmax_backward):
    """Each score moves its own probability only: the rest of the softmax's Jacobian is left out."""
    q, k, v, probabilities, _, sees_a_key, scale = cache
    keys, values = repeat_heads(k, q), repeat_heads(v, q)               # (B, H, Tk, D), (B, H, Tk, Dv)
    if sees_a_key is not None:
        dy = dy * sees_a_key                                            # (B, H, Tq, Dv)
    dprobabilities = dy @ values.swapaxes(-1, -2)                       # (B, H, Tq, Tk)
    dscores = probabilities * (1 - probabilities) * dprobabilities      # (B, H, Tq, Tk)
    dq = scale * dscores @ keys                                         # (B, H, Tq, D)
    dk = sum_heads(dscores.swapaxes(-1, -2) @ (scale * q), k)           # (B, H, Tk, D) -> (B, KV, Tk, D)
    dv = sum_heads(probabilities.swapaxes(-1, -2) @ dy, v)              # (B, H, Tk, Dv) -> (B, KV, Tk, Dv)
    return dq, dk, dv


def steps_over_the_softmax(dy, cache, needs=None, *, softmax_backward=softmax_backward):
    """The gradient of the probabilities is taken for that of the scores."""
    q, k, v, probabilities, _, sees_a_key, scale = cache
    keys, values = repeat_heads(k, q), repeat_heads(v, q)               # (B, H, Tk, D), (B, H, Tk, Dv)
    if sees_a_key is not None:
        dy = dy * sees_a_key                                            # (B, H, Tq, Dv)
    dscores = dy @ values.swapaxes(-1, -2)                              # (B, H, Tq, Tk)
    dq = scale * dscores @ keys                                         # (B, H, Tq, D)
    dk = sum_heads(dscores.swapaxes(-1, -2) @ (scale * q), k)           # (B, H, Tk, D) -> (B, KV, Tk, D)
    dv = sum_heads(probabilities.swapaxes(-1, -2) @ dy, v)              # (B, H, Tk, Dv) -> (B, KV, Tk, Dv)
    return dq, dk, dv


def forgets_the_scale_in_dk(dy, cache, needs=None, *, softmax_backward=softmax_backward):
    """dq is multiplied by the scale, dk is not."""
    q, k, v, probabilities, softmax_cache, sees_a_key, scale = cache
    keys, values = repeat_heads(k, q), repeat_heads(v, q)               # (B, H, Tk, D), (B, H, Tk, Dv)
    if sees_a_key is not None:
        dy = dy * sees_a_key                                            # (B, H, Tq, Dv)
    dprobabilities = dy @ values.swapaxes(-1, -2)                       # (B, H, Tq, Tk)
    dscores = softmax_backward(dprobabilities, softmax_cache)           # (B, H, Tq, Tk)
    dq = scale * dscores @ keys                                         # (B, H, Tq, D)
    dk = sum_heads(dscores.swapaxes(-1, -2) @ q, k)                     # (B, H, Tk, D) -> (B, KV, Tk, D)
    dv = sum_heads(probabilities.swapaxes(-1, -2) @ dy, v)              # (B, H, Tk, Dv) -> (B, KV, Tk, Dv)
    return dq, dk, dv


def scales_the_scores_twice(dy, cache, needs=None, *, softmax_backward=softmax_backward):
    """The scale is applied to dscores, and again to both products: scale² instead of scale."""
    q, k, v, probabilities, softmax_cache, sees_a_key, scale = cache
    keys, values = repeat_heads(k, q), repeat_heads(v, q)               # (B, H, Tk, D), (B, H, Tk, Dv)
    if sees_a_key is not None:
        dy = dy * sees_a_key                                            # (B, H, Tq, Dv)
    dprobabilities = dy @ values.swapaxes(-1, -2)                       # (B, H, Tq, Tk)
    dscores = scale * softmax_backward(dprobabilities, softmax_cache)   # (B, H, Tq, Tk)
    dq = scale * dscores @ keys                                         # (B, H, Tq, D)
    dk = sum_heads(dscores.swapaxes(-1, -2) @ (scale * q), k)           # (B, H, Tk, D) -> (B, KV, Tk, D)
    dv = sum_heads(probabilities.swapaxes(-1, -2) @ dy, v)              # (B, H, Tk, Dv) -> (B, KV, Tk, Dv)
    return dq, dk, dv


def keeps_the_last_head_of_a_group(dy, cache, needs=None, *, softmax_backward=softmax_backward):
    """The query heads that share a key head overwrite each other's gradients: = instead of +=."""
    q, k, v, probabilities, softmax_cache, sees_a_key, scale = cache
    xp = array_namespace(dy)
    keys, values = repeat_heads(k, q), repeat_heads(v, q)               # (B, H, Tk, D), (B, H, Tk, Dv)
    if sees_a_key is not None:
        dy = dy * sees_a_key                                            # (B, H, Tq, Dv)
    dprobabilities = dy @ values.swapaxes(-1, -2)                       # (B, H, Tq, Tk)
    dscores = softmax_backward(dprobabilities, softmax_cache)           # (B, H, Tq, Tk)
    dq = scale * dscores @ keys                                         # (B, H, Tq, D)
    dk, dv = xp.zeros_like(k), xp.zeros_like(v)
    for head in range(q.shape[1]):
        shared = head * k.shape[1] // q.shape[1]
        dk[:, shared] = dscores[:, head].swapaxes(-1, -2) @ (scale * q[:, head])        # (B, Tk, D)
        dv[:, shared] = probabilities[:, head].swapaxes(-1, -2) @ dy[:, head]           # (B, Tk, Dv)
    return dq, dk, dv


def averages_over_a_group(dy, cache, needs=None, *, softmax_backward=softmax_backward):
    """The gradients of query heads that share a key head are averaged instead of summed."""
    q, k, v, probabilities, softmax_cache, sees_a_key, scale = cache
    keys, values = repeat_heads(k, q), repeat_heads(v, q)               # (B, H, Tk, D), (B, H, Tk, Dv)
    if sees_a_key is not None:
        dy = dy * sees_a_key                                            # (B, H, Tq, Dv)
    dprobabilities = dy @ values.swapaxes(-1, -2)                       # (B, H, Tq, Tk)
    dscores = softmax_backward(dprobabilities, softmax_cache)           # (B, H, Tq, Tk)
    dq = scale * dscores @ keys                                         # (B, H, Tq, D)
    group = q.shape[1] // k.shape[1]
    dk = sum_heads(dscores.swapaxes(-1, -2) @ (scale * q), k) / group   # (B, H, Tk, D) -> (B, KV, Tk, D)
    dv = sum_heads(probabilities.swapaxes(-1, -2) @ dy, v) / group      # (B, H, Tk, Dv) -> (B, KV, Tk, Dv)
    return dq, dk, dv


def keeps_a_gradient_for_each_query_head(dy, cache, needs=None, *, softmax_backward=softmax_backward):
    """dk and dv have one array for each query head: those that share a key head are not summed."""
    q, k, v, probabilities, softmax_cache, sees_a_key, scale = cache
    keys, values = repeat_heads(k, q), repeat_heads(v, q)               # (B, H, Tk, D), (B, H, Tk, Dv)
    if sees_a_key is not None:
        dy = dy * sees_a_key                                            # (B, H, Tq, Dv)
    dprobabilities = dy @ values.swapaxes(-1, -2)                       # (B, H, Tq, Tk)
    dscores = softmax_backward(dprobabilities, softmax_cache)           # (B, H, Tq, Tk)
    dq = scale * dscores @ keys                                         # (B, H, Tq, D)
    dk = dscores.swapaxes(-1, -2) @ (scale * q)                         # (B, H, Tk, D)
    dv = probabilities.swapaxes(-1, -2) @ dy                            # (B, H, Tk, Dv)
    return dq, dk, dv


def returns_dk_transposed(dy, cache, needs=None, *, softmax_backward=softmax_backward):
    """dk is qᵀ · dscores, which is (D, Tk), but k is (Tk, D)."""
    q, k, v, probabilities, softmax_cache, sees_a_key, scale = cache
    keys, values = repeat_heads(k, q), repeat_heads(v, q)               # (B, H, Tk, D), (B, H, Tk, Dv)
    if sees_a_key is not None:
        dy = dy * sees_a_key                                            # (B, H, Tq, Dv)
    dprobabilities = dy @ values.swapaxes(-1, -2)                       # (B, H, Tq, Tk)
    dscores = softmax_backward(dprobabilities, softmax_cache)           # (B, H, Tq, Tk)
    dq = scale * dscores @ keys                                         # (B, H, Tq, D)
    dk = sum_heads((scale * q).swapaxes(-1, -2) @ dscores, k)           # (B, H, D, Tk) -> (B, KV, D, Tk)
    dv = sum_heads(probabilities.swapaxes(-1, -2) @ dy, v)              # (B, H, Tk, Dv) -> (B, KV, Tk, Dv)
    return dq, dk, dv


def recomputes_without_the_mask(dy, cache, needs=None, *, softmax_backward=softmax_backward):
    """The probabilities are computed anew, and the mask is not applied to them."""
    q, k, v, _, _, _, scale = cache
    xp = array_namespace(dy)
    keys, values = repeat_heads(k, q), repeat_heads(v, q)               # (B, H, Tk, D), (B, H, Tk, Dv)
    scores = scale * q @ keys.swapaxes(-1, -2)                          # (B, H, Tq, Tk)
    p = xp.exp(scores - xp.max(scores, axis=-1, keepdims=True))         # (B, H, Tq, Tk)
    p = p / xp.sum(p, axis=-1, keepdims=True)
    dp = dy @ values.swapaxes(-1, -2)                                   # (B, H, Tq, Tk)
    dscores = p * (dp - xp.sum(dp * p, axis=-1, keepdims=True))         # (B, H, Tq, Tk)
    dq = scale * dscores @ keys                                         # (B, H, Tq, D)
    dk = sum_heads(dscores.swapaxes(-1, -2) @ (scale * q), k)           # (B, H, Tk, D) -> (B, KV, Tk, D)
    dv = sum_heads(p.swapaxes(-1, -2) @ dy, v)                          # (B, H, Tk, Dv) -> (B, KV, Tk, Dv)
    return dq, dk, dv


def learns_from_queries_that_see_nothing(dy, cache, needs=None, *, softmax_backward=softmax_backward):
    """A query that sees no key gave zeros, but still sends a gradient back."""
    q, k, v, probabilities, softmax_cache, _, scale = cache
    keys, values = repeat_heads(k, q), repeat_heads(v, q)               # (B, H, Tk, D), (B, H, Tk, Dv)
    dprobabilities = dy @ values.swapaxes(-1, -2)                       # (B, H, Tq, Tk)
    dscores = softmax_backward(dprobabilities, softmax_cache)           # (B, H, Tq, Tk)
    dq = scale * dscores @ keys                                         # (B, H, Tq, D)
    dk = sum_heads(dscores.swapaxes(-1, -2) @ (scale * q), k)           # (B, H, Tk, D) -> (B, KV, Tk, D)
    dv = sum_heads(probabilities.swapaxes(-1, -2) @ dy, v)              # (B, H, Tk, Dv) -> (B, KV, Tk, Dv)
    return dq, dk, dv


def swaps_keys_and_values(dy, cache, needs=None, *, softmax_backward=softmax_backward):
    """dv comes before dk, against the order of the arguments."""
    q, k, v, probabilities, softmax_cache, sees_a_key, scale = cache
    keys, values = repeat_heads(k, q), repeat_heads(v, q)               # (B, H, Tk, D), (B, H, Tk, Dv)
    if sees_a_key is not None:
        dy = dy * sees_a_key                                            # (B, H, Tq, Dv)
    dprobabilities = dy @ values.swapaxes(-1, -2)                       # (B, H, Tq, Tk)
    dscores = softmax_backward(dprobabilities, softmax_cache)           # (B, H, Tq, Tk)
    dq = scale * dscores @ keys                                         # (B, H, Tq, D)
    dk = sum_heads(dscores.swapaxes(-1, -2) @ (scale * q), k)           # (B, H, Tk, D) -> (B, KV, Tk, D)
    dv = sum_heads(probabilities.swapaxes(-1, -2) @ dy, v)              # (B, H, Tk, Dv) -> (B, KV, Tk, Dv)
    return dq, dv, dk


def masks_after_the_softmax(q, k, v, *, causal=False, window=None, query_start=None, key_length=None,
                            query_document=None, key_document=None, scale=None,
                            softmax_forward=softmax_forward):
    """Hidden keys take part in the softmax and are removed afterwards, so that a row sums to less than 1."""
    xp = array_namespace(q)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    mask = AttentionMask(causal, window, query_start, key_length, query_document, key_document)
    visible = mask.visible(xp, range(q.shape[2]), range(k.shape[2]))
    keys, values = repeat_heads(k, q), repeat_heads(v, q)               # (B, H, Tk, D), (B, H, Tk, Dv)
    scores = scale * q @ keys.swapaxes(-1, -2)                          # (B, H, Tq, Tk)
    probabilities, softmax_cache = softmax_forward(scores)              # (B, H, Tq, Tk)
    if visible is not None:
        probabilities = probabilities * visible
    y = probabilities @ values                                          # (B, H, Tq, Dv)
    return y, AttentionCache(q, k, v, probabilities, softmax_cache, None, scale)


def hides_with_zeros(q, k, v, *, causal=False, window=None, query_start=None, key_length=None,
                     query_document=None, key_document=None, scale=None,
                     softmax_forward=softmax_forward):
    """The scores of hidden keys are set to 0, which is a score like any other, instead of the lowest number."""
    xp = array_namespace(q)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    mask = AttentionMask(causal, window, query_start, key_length, query_document, key_document)
    visible = mask.visible(xp, range(q.shape[2]), range(k.shape[2]))
    keys, values = repeat_heads(k, q), repeat_heads(v, q)               # (B, H, Tk, D), (B, H, Tk, Dv)
    scores = scale * q @ keys.swapaxes(-1, -2)                          # (B, H, Tq, Tk)
    sees_a_key = None
    if visible is not None:
        scores = xp.where(visible, scores, 0)
        sees_a_key = xp.any(visible, axis=-1, keepdims=True)            # (B or 1, 1, Tq or 1, 1)
    probabilities, softmax_cache = softmax_forward(scores)              # (B, H, Tq, Tk)
    y = probabilities @ values                                          # (B, H, Tq, Dv)
    if visible is not None:
        y = y * sees_a_key
    return y, AttentionCache(q, k, v, probabilities, softmax_cache, sees_a_key, scale)


def inverts_the_mask(q, k, v, *, causal=False, window=None, query_start=None, key_length=None,
                     query_document=None, key_document=None, scale=None,
                     softmax_forward=softmax_forward):
    """The visible keys are hidden, and the hidden ones are seen."""
    xp = array_namespace(q)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    mask = AttentionMask(causal, window, query_start, key_length, query_document, key_document)
    visible = mask.visible(xp, range(q.shape[2]), range(k.shape[2]))
    keys, values = repeat_heads(k, q), repeat_heads(v, q)               # (B, H, Tk, D), (B, H, Tk, Dv)
    scores = scale * q @ keys.swapaxes(-1, -2)                          # (B, H, Tq, Tk)
    sees_a_key = None
    if visible is not None:
        scores = xp.where(visible, float(xp.finfo(scores.dtype).min), scores)
        sees_a_key = xp.any(visible, axis=-1, keepdims=True)            # (B or 1, 1, Tq or 1, 1)
    probabilities, softmax_cache = softmax_forward(scores)              # (B, H, Tq, Tk)
    y = probabilities @ values                                          # (B, H, Tq, Dv)
    if visible is not None:
        y = y * sees_a_key
    return y, AttentionCache(q, k, v, probabilities, softmax_cache, sees_a_key, scale)


def forgets_the_scale(q, k, v, *, causal=False, window=None, query_start=None, key_length=None,
                      query_document=None, key_document=None, scale=None,
                      softmax_forward=softmax_forward):
    """The scores are not multiplied by the scale."""
    xp = array_namespace(q)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    mask = AttentionMask(causal, window, query_start, key_length, query_document, key_document)
    visible = mask.visible(xp, range(q.shape[2]), range(k.shape[2]))
    keys, values = repeat_heads(k, q), repeat_heads(v, q)               # (B, H, Tk, D), (B, H, Tk, Dv)
    scores = q @ keys.swapaxes(-1, -2)                                  # (B, H, Tq, Tk)
    sees_a_key = None
    if visible is not None:
        scores = xp.where(visible, scores, float(xp.finfo(scores.dtype).min))
        sees_a_key = xp.any(visible, axis=-1, keepdims=True)            # (B or 1, 1, Tq or 1, 1)
    probabilities, softmax_cache = softmax_forward(scores)              # (B, H, Tq, Tk)
    y = probabilities @ values                                          # (B, H, Tq, Dv)
    if visible is not None:
        y = y * sees_a_key
    return y, AttentionCache(q, k, v, probabilities, softmax_cache, sees_a_key, scale)


def deals_key_heads_in_turn(q, k, v, *, causal=False, window=None, query_start=None, key_length=None,
                            query_document=None, key_document=None, scale=None,
                            softmax_forward=softmax_forward):
    """Query head h reads key head h % KV instead of h // (H / KV), so that neighbours do not share one."""
    xp = array_namespace(q)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    mask = AttentionMask(causal, window, query_start, key_length, query_document, key_document)
    visible = mask.visible(xp, range(q.shape[2]), range(k.shape[2]))
    group = q.shape[1] // k.shape[1]
    keys, values = xp.tile(k, (1, group, 1, 1)), xp.tile(v, (1, group, 1, 1))           # (B, H, Tk, D), (B, H, Tk, Dv)
    scores = scale * q @ keys.swapaxes(-1, -2)                          # (B, H, Tq, Tk)
    sees_a_key = None
    if visible is not None:
        scores = xp.where(visible, scores, float(xp.finfo(scores.dtype).min))
        sees_a_key = xp.any(visible, axis=-1, keepdims=True)            # (B or 1, 1, Tq or 1, 1)
    probabilities, softmax_cache = softmax_forward(scores)              # (B, H, Tq, Tk)
    y = probabilities @ values                                          # (B, H, Tq, Dv)
    if visible is not None:
        y = y * sees_a_key
    return y, AttentionCache(q, k, v, probabilities, softmax_cache, sees_a_key, scale)


def repeat_heads(x, q):
    """Give every query head its own copy of the key head that it reads: (B, KV, T, D) -> (B, H, T, D)."""
    xp = array_namespace(x)
    return xp.repeat(x, q.shape[1] // x.shape[1], axis=1)


def sum_heads(dx, x):
    """Add up the gradients of the copies: (B, H, T, D) -> (B, KV, T, D)."""
    xp = array_namespace(dx)
    batch, heads, *matrix = dx.shape
    return xp.sum(dx.reshape(batch, x.shape[1], heads // x.shape[1], *matrix), axis=2)


MISTAKES = {
    "attention_backward": [
        (keeps_the_softmax_diagonal_only, "missing term"),
        (steps_over_the_softmax, "missing term"),
        (forgets_the_scale_in_dk, "constant factor"),
        (scales_the_scores_twice, "constant factor"),
        (keeps_the_last_head_of_a_group, "overwritten"),
        (averages_over_a_group, "constant factor"),
        (keeps_a_gradient_for_each_query_head, "wrong sum"),
        (returns_dk_transposed, "transposed"),
        (recomputes_without_the_mask, "mask"),
        (learns_from_queries_that_see_nothing, "mask"),
        (swaps_keys_and_values, "wrong order"),
    ],
    "attention_forward": [
        (masks_after_the_softmax, "mask"),
        (hides_with_zeros, "mask"),
        (inverts_the_mask, "mask"),
        (forgets_the_scale, "missing term"),
        (deals_key_heads_in_turn, "wrong order"),
    ],
}
