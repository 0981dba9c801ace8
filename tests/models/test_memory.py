"""The memory that is counted from a configuration, against what is there."""

import tracemalloc

import numpy as np
import pytest

import tinyllama as tl
from tinyllama.generation import KVCache
from tinyllama.models.memory import activation_bytes, kv_cache_bytes

SIZES = dict(vocab_size=500, hidden_size=96, intermediate_size=256, num_hidden_layers=3, num_attention_heads=6,
             num_key_value_heads=2, max_position_embeddings=128)
MARGIN = 0.08       # stated: the count is within 8% of the peak; most are within 2%


def measured(config, batch_size, context, dtype, workers):
    """The most that a step holds beside weights and gradients, as NumPy allocates it."""
    model = tl.Llama(config, "numba", dtype, workers=workers)
    ids = np.zeros((batch_size, context), np.int64)
    model.loss_and_grads(ids, ids)                  # makes the gradients
    tracemalloc.start()
    model.loss_and_grads(ids, ids)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("settings, batch_size, context", [
    ({}, 4, 128),
    ({}, 7, 31),
    (dict(vocab_size=20000), 4, 128),                           # the gradient of the head is the largest
    (dict(num_hidden_layers=1, intermediate_size=900), 4, 128),     # the MLP is
    (dict(num_hidden_layers=1, head_dim=80, intermediate_size=20), 4, 128),     # attention is
    (dict(qk_norm=True, num_key_value_heads=6), 4, 128),
    (dict(norm="layernorm", mlp="gelu", positions="learned", attention_bias=True, mlp_bias=True), 4, 128),
    (dict(num_hidden_layers=9, num_unique_layers=3), 3, 64),
], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_a_step_holds_is_what_was_counted(settings, batch_size, context, dtype):
    if "numba" not in tl.available_backends():
        pytest.skip("Numba is not installed, and the counts are those of its backend.")
    config = tl.LlamaConfig(**SIZES | settings)
    counted = activation_bytes(config, batch_size, context, itemsize=np.dtype(dtype).itemsize)
    assert measured(config, batch_size, context, dtype, 1) == pytest.approx(counted, rel=MARGIN)


def test_two_workers_hold_two_gradients_of_a_matrix():
    # Their peaks may or may not come at the same time, so that the count is the most.
    if "numba" not in tl.available_backends():
        pytest.skip("Numba is not installed, and the counts are those of its backend.")
    config = tl.LlamaConfig(**SIZES | dict(vocab_size=20000))
    counted = activation_bytes(config, 4, 128, workers=2)
    assert 0.5 * counted < measured(config, 4, 128, "float32", 2) < (1 + MARGIN) * counted
    assert counted - activation_bytes(config, 4, 128) > 4 * 20000 * 96


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_cache_of_keys_and_values_takes_what_was_counted(dtype):
    config = tl.LlamaConfig(**SIZES)
    cache = KVCache(tl.load_backend("numpy"), layers=3, batch_size=5, key_value_heads=2, capacity=17, head_dim=16,
                    dtype=dtype)
    counted = kv_cache_bytes(config, 5, 17, np.dtype(dtype).itemsize)
    assert counted == cache.keys.nbytes + cache.values.nbytes
