"""Attention as its definition reads: one query, one key, one number at a time."""

import math

import numpy as np


def visible_keys(shape, *, causal=False, window=None, query_start=None, key_length=None, query_document=None,
                 key_document=None):
    """Which keys each query sees, by the four conditions in the docstring of `AttentionMask`.

    shape: (B, Tq, Tk)  ->  (B, Tq, Tk) booleans.
    """
    batch, queries, keys = shape
    start = np.broadcast_to(0 if query_start is None else query_start, batch)
    length = np.broadcast_to(keys if key_length is None else key_length, batch)
    visible = np.ones(shape, dtype=bool)
    for b in range(batch):
        for i in range(queries):
            p = start[b] + i
            for j in range(keys):
                if j >= length[b]:
                    visible[b, i, j] = False
                if causal and j > p:
                    visible[b, i, j] = False
                if window is not None and p - j >= window:
                    visible[b, i, j] = False
                if query_document is not None and query_document[b, i] != key_document[b, j]:
                    visible[b, i, j] = False
    return visible


def slow_attention(q, k, v, *, scale=None, **mask):
    """q: (B, H, Tq, D), k: (B, KV, Tk, D), v: (B, KV, Tk, Dv)  ->  (B, H, Tq, Dv), with no array operation in it."""
    batch, heads, queries, head_dim = q.shape
    key_heads, keys = k.shape[1:3]
    visible = visible_keys((batch, queries, keys), **mask)
    scale = 1 / math.sqrt(head_dim) if scale is None else scale
    y = np.zeros((batch, heads, queries, v.shape[3]))
    for b in range(batch):
        for h in range(heads):
            shared = h // (heads // key_heads)
            for i in range(queries):
                weights = {j: math.exp(scale * sum(q[b, h, i, d] * k[b, shared, j, d] for d in range(head_dim)))
                           for j in range(keys) if visible[b, i, j]}
                for d in range(v.shape[3]):
                    if weights:
                        total = sum(weight * v[b, shared, j, d] for j, weight in weights.items())
                        y[b, h, i, d] = total / sum(weights.values())
    return y
