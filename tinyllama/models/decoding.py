"""One step of generation with a LLaMA: new tokens in, the logits of the next one out, all older ones from the cache."""

import numpy as np

from tinyllama.generation import KVCache
from tinyllama.nn import Context


def new_step(model, batch_size, capacity):
    """A function step(ids, counts) -> logits that remembers the keys and values of all tokens it has seen.

    ids: (B, T) integers on the host, of which the first counts[b] of row b are real  ->  logits: (B, vocab_size) after
    the last real token of each row. capacity: how many tokens a row can hold.
    """
    config, xp = model.config, model.backend.xp
    kv_cache = KVCache(model.backend, layers=config.num_hidden_layers, batch_size=batch_size,
                       key_value_heads=config.num_key_value_heads, capacity=capacity, head_dim=config.head_dim,
                       dtype=model.dtype)

    def step(ids, counts):
        positions, query_start, key_length = kv_cache.start(ids.shape[1], counts)
        context = Context(query_start=query_start, key_length=key_length, kv_cache=kv_cache)
        hidden, _ = model.forward(model.backend.asarray(ids), positions, context, keep_caches=False)
        kv_cache.finish()
        if (counts == ids.shape[1]).all():
            last = hidden[:, -1]                                                # (B, T, hidden) -> (B, hidden)
        else:
            ends = model.backend.asarray(np.maximum(counts - 1, 0))             # (B,)
            last = hidden[xp.arange(batch_size), ends]                          # (B, T, hidden) -> (B, hidden)
        return model.lm_head.forward(last)[0]                                   # (B, hidden) -> (B, vocab_size)

    return step
