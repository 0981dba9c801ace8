"""Attention in one call of compiled code: its loops over heads and blocks of queries, and BLAS called from inside."""

import numpy as np
from numba.extending import register_jitable

from tinyllama.backends.cpu.attention_softmax import softmax_row, softmax_row_backward
from tinyllama.backends.cpu.blas import product, product_address
from tinyllama.backends.cpu.compiling import as_flat, kernel

BLOCK_QUERIES = 32      # of one head make a block


def forward(q, k, v, first, stop, scale, y, logsumexp):
    """Write y (B, H, Tq, Dv) and logsumexp (B, H, Tq)."""
    if y.size == 0:
        return
    arrays = [part for x in (q, k, v, y) for part in _flat(x)]
    k_t = np.empty(k.shape[2] * k.shape[3], q.dtype)                    # of one head
    scores = np.empty(BLOCK_QUERIES * k.shape[2], q.dtype)              # of one block
    _forward(product_address(q.dtype), _sizes(q, k, v), *arrays, first, stop, scale, logsumexp, k_t, scores)


def backward(dy, q, k, v, first, stop, scale, logsumexp, dq, dk, dv):
    """Write dq (B, H, Tq, D); add to dk (B, KV, Tk, D) and dv (B, KV, Tk, Dv)."""
    if dy.size == 0:
        dq[...] = 0             # where it is not empty: the values have no features, and y depends on nothing
        return
    arrays = [part for x in (dy, q, k, v, dq, dk, dv) for part in _flat(x)]
    k_t, v_t = (np.empty(x.shape[2] * x.shape[3], q.dtype) for x in (k, v))
    scores, dscores = (np.empty(BLOCK_QUERIES * k.shape[2], q.dtype) for _ in range(2))
    _backward(product_address(q.dtype), _sizes(q, k, v), *arrays, first, stop, scale, logsumexp, k_t, v_t, scores,
              dscores)


def _flat(x):
    """`as_flat`, with a row at least as long as what it holds, even where there is only one: BLAS insists."""
    flat, strides = as_flat(x)
    return flat, (*strides[:2], max(strides[2], x.shape[3]), strides[3])


def _sizes(q, k, v):
    return (*q.shape[:3], *k.shape[1:], v.shape[3])


@kernel("(int64, UniTuple(int64, 7), FLAT, FLAT, FLAT, FLAT, int64[:, ::1], int64[:, ::1], T, T[:, :, ::1], T[::1], "
        "T[::1])")
def _forward(blas, sizes, q, qs, k, ks, v, vs, y, ys, first, stop, scale, logsumexp, k_t, scores):
    batch, heads, queries, key_heads, keys, width, value_width = sizes
    zero, group, at_once = q.dtype.type(0), heads // key_heads, scores.size // keys
    for n in range(batch * heads):
        b, h = divmod(n, heads)
        k_head, v_head = _head(k, ks, b, h // group), _head(v, vs, b, h // group)
        if h % group == 0:
            _transpose(k_head, ks[2], keys, width, k_t)
        for i in range(0, queries, at_once):
            rows = min(at_once, queries - i)
            j, seen = _keys_seen(first[b, i:i + rows], stop[b, i:i + rows])
            q_block, y_block = _head(q, qs, b, h)[i * qs[2]:], _head(y, ys, b, h)[i * ys[2]:]
            product(blas, False, (rows, seen, width), q_block, qs[2], k_t[j:], keys, zero, scores, seen)
            for t in range(rows):
                row = scores[t * seen:(t + 1) * seen]
                logsumexp[b, h, i + t] = softmax_row(row, first[b, i + t] - j, stop[b, i + t] - j, scale)
            product(blas, False, (rows, value_width, seen), scores, seen, v_head[j * vs[2]:], vs[2], zero, y_block,
                    ys[2])


@kernel("(int64, UniTuple(int64, 7), FLAT, FLAT, FLAT, FLAT, FLAT, FLAT, FLAT, int64[:, ::1], int64[:, ::1], T, "
        "T[:, :, ::1], T[::1], T[::1], T[::1], T[::1])")
def _backward(blas, sizes, dy, dys, q, qs, k, ks, v, vs, dq, dqs, dk, dks, dv, dvs, first, stop, scale, logsumexp,
              k_t, v_t, scores, dscores):
    batch, heads, queries, key_heads, keys, width, value_width = sizes
    zero, one, group, at_once = q.dtype.type(0), q.dtype.type(1), heads // key_heads, scores.size // keys
    for n in range(batch * heads):
        b, h = divmod(n, heads)
        k_head, v_head = _head(k, ks, b, h // group), _head(v, vs, b, h // group)
        dk_head, dv_head = _head(dk, dks, b, h // group), _head(dv, dvs, b, h // group)
        if h % group == 0:
            _transpose(k_head, ks[2], keys, width, k_t)
            _transpose(v_head, vs[2], keys, value_width, v_t)
        for i in range(0, queries, at_once):
            rows = min(at_once, queries - i)
            j, seen = _keys_seen(first[b, i:i + rows], stop[b, i:i + rows])
            q_block, dq_block = _head(q, qs, b, h)[i * qs[2]:], _head(dq, dqs, b, h)[i * dqs[2]:]
            dy_block = _head(dy, dys, b, h)[i * dys[2]:]
            product(blas, False, (rows, seen, width), q_block, qs[2], k_t[j:], keys, zero, scores, seen)
            product(blas, False, (rows, seen, value_width), dy_block, dys[2], v_t[j:], keys, zero, dscores, seen)
            for t in range(rows):
                row, drow = scores[t * seen:(t + 1) * seen], dscores[t * seen:(t + 1) * seen]
                softmax_row_backward(row, drow, first[b, i + t] - j, stop[b, i + t] - j, scale, logsumexp[b, h, i + t])
            product(blas, False, (rows, width, seen), dscores, seen, k_head[j * ks[2]:], ks[2], zero, dq_block, dqs[2])
            product(blas, True, (seen, width, rows), dscores, seen, q_block, qs[2], one, dk_head[j * dks[2]:], dks[2])
            product(blas, True, (seen, value_width, rows), scores, seen, dy_block, dys[2], one, dv_head[j * dvs[2]:],
                    dvs[2])


@register_jitable
def _head(x, strides, row, head):
    """The flat array from the first element of a head on."""
    return x[row * strides[0] + head * strides[1]:]


@register_jitable
def _keys_seen(first, stop):
    """(j, n): the n keys from j on are all that these queries see; at least one, so that there is a product."""
    begin, end = stop.max(), 0
    for i in range(first.size):
        if stop[i] > first[i]:
            begin, end = min(begin, first[i]), max(end, stop[i])
    return (begin, end - begin) if end > 0 else (0, 1)


@register_jitable
def _transpose(x, stride, length, width, y):
    """y (width, length) = xᵀ, x having so many elements from one row to the next: BLAS is faster with both upright."""
    for t in range(length):
        row = x[t * stride:t * stride + width]
        for d in range(width):
            y[d * length + t] = row[d]
