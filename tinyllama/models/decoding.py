"""One step of generation with a LLaMA: new tokens in, the logits of the next one out, all older ones from the cache."""

import contextlib

import numpy as np

from tinyllama.backends.threads import blas_threads
from tinyllama.generation import KVCache, Session
from tinyllama.nn import Context
from tinyllama.ops.quantized_linear import Quantized

ONE_BY_ONE = 8          # tokens that one row gets at once, up to which they are faster through the fused step than BLAS
# Multiplications of a prompt up to which one BLAS thread is faster in the end: OpenBLAS's other threads go on spinning
# for a tenth of a second, and take a core from the tokens that follow.
SHORT_PROMPT = 8e9


def new_step(model, batch_size, capacity):
    """A function step(ids, counts) -> logits that remembers the keys and values of all tokens it has seen.

    ids: (B, T) integers on the host, of which the first counts[b] of row b are real  ->  logits: (B, vocab_size) after
    the last real token of each row. capacity: how many tokens a row can hold.

    A few tokens of a single row go one by one through the fused step of the backend, where it has one that covers this
    configuration; everything else goes through the layers. Both write to the same cache.
    """
    return _step_with(model, _new_cache(model, batch_size, capacity))


def new_session(model, capacity):
    """A `Session` for a text of at most `capacity` tokens."""
    def make(capacity):
        kv_cache = _new_cache(model, 1, capacity)
        return _step_with(model, kv_cache), kv_cache

    return Session(make, capacity)


def _new_cache(model, batch_size, capacity):
    config = model.config
    return KVCache(model.backend, layers=config.num_hidden_layers, batch_size=batch_size,
                   key_value_heads=config.num_key_value_heads, capacity=capacity, head_dim=config.head_dim,
                   dtype=model.dtype)


def _step_with(model, kv_cache):
    xp, batch_size = model.backend.xp, len(kv_cache.lengths)
    token_step = _new_token_step(model, kv_cache) if batch_size == 1 else None
    weights = sum(weight.size for weight in model.parameters.values())
    # Such products share their work among threads that BLAS's own would fight with, as long as those go on spinning.
    is_quantized = any(isinstance(weight, Quantized) for weight in model.parameters.values())
    has_threads = is_quantized and model.backend.new_token_step is not None

    def step(ids, counts):
        positions, query_start, key_length = kv_cache.start(ids.shape[1], counts)
        if token_step is not None and counts[0] == ids.shape[1] <= ONE_BY_ONE:
            for position, token in enumerate(ids[0].tolist(), query_start):
                logits = token_step(token, position)                            # (vocab_size,)
            kv_cache.finish()
            return logits[None]                                                 # (vocab_size,) -> (1, vocab_size)
        context = Context(query_start=query_start, key_length=key_length, kv_cache=kv_cache)
        is_short = token_step is not None and ids.size * weights < SHORT_PROMPT
        with blas_threads(1) if is_short or has_threads else contextlib.nullcontext():
            hidden, _ = model.forward(model.backend.asarray(ids), positions, context, keep_caches=False)
        kv_cache.finish()
        if (counts == ids.shape[1]).all():
            last = hidden[:, -1]                                                # (B, T, hidden) -> (B, hidden)
        else:
            ends = model.backend.asarray(np.maximum(counts - 1, 0))             # (B,)
            last = hidden[xp.arange(batch_size), ends]                          # (B, T, hidden) -> (B, hidden)
        return model.lm_head.forward(last)[0]                                   # (B, hidden) -> (B, vocab_size)

    return step


def _new_token_step(model, kv_cache):
    """The fused step of the backend, step(token, position) -> logits (vocab_size,), or None where there is none."""
    config, weights = model.config, model.parameters
    is_covered = (config.norm, config.mlp) == ("rmsnorm", "swiglu") and config.positions in ("rope", "none")
    if model.backend.new_token_step is None or not is_covered:
        return None

    def matrix(linear):
        return weights[linear.weight], weights[linear.bias] if linear.bias else None

    layers = []
    for block in model.layers:
        layer = {"attention_norm": weights[block.attention_norm.weight], "mlp_norm": weights[block.mlp_norm.weight]}
        for name, norm in (("q_norm", block.attention.q_norm), ("k_norm", block.attention.k_norm)):
            layer[name] = weights[norm.weight] if norm else None
        for name, linear in (("qkv", block.attention.qkv), ("output", block.attention.output),
                             ("gate_up", block.mlp.gate_up), ("down", block.mlp.down)):
            layer[name], layer[f"{name}_bias"] = matrix(linear)
        layers.append(layer)
    cos, sin = model.rotary.tables(kv_cache.capacity) if model.rotary else (None, None)
    return model.backend.new_token_step(
        embedding=weights[model.embed_tokens.weight], layers=layers, norm=weights[model.norm.weight],
        head=weights[model.lm_head.weight], eps=config.rms_norm_eps, heads=config.num_attention_heads,
        cos=cos, sin=sin, window=config.sliding_window, keys=kv_cache.keys, values=kv_cache.values,
        workers=model.workers)
