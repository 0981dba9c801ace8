"""What an operation has to do, counted once more by hand or by brute force."""

import numpy as np
import pytest
from brute_force import visible_keys
from toy_sizes import TOY

from tinyllama.bench import counts
from tinyllama.bench.counts import Work
from tinyllama.models import Llama, LlamaConfig


def floats(*shape, dtype=np.float32):
    return np.empty(shape, dtype)


@pytest.mark.parametrize(("op", "arrays", "settings", "forward", "backward"), [
    # 2 · 3 rows, 4 inputs, 5 outputs: 120 products and as many additions; 24 + 20 + 30 numbers of four bytes
    ("linear", [floats(2, 3, 4), floats(5, 4), None], {}, Work(240, 4 * 74), Work(480, 4 * (30 + 48 + 40))),
    ("linear", [floats(6, 4, dtype=np.float64), floats(5, 4, dtype=np.float64)], {},
     Work(240, 8 * 74), Work(480, 8 * 118)),
    # 6 rows of 4 with a weight of 4
    ("rmsnorm", [floats(2, 3, 4), floats(4)], {"eps": 1e-5}, Work(96, 4 * 52), Work(216, 4 * 80)),
    # 48 features are 24 pairs with 6 operations each; the two tables have 3 · 2 numbers each
    ("rope", [floats(2, 2, 3, 4)], {"cos": floats(3, 2), "sin": floats(3, 2)}, Work(144, 4 * 108), Work(144, 4 * 108)),
    ("swiglu", [floats(2, 3, 8)], {}, Work(144, 4 * 72), Work(288, 4 * 120)),
    ("cross_entropy", [floats(6, 5)], {"targets": np.empty(6, np.int64), "divisor": 6.0},
     Work(120, 4 * 30 + 48), Work(90, 4 * 60 + 48)),
    # six ids of eight bytes, rows of 4; the table has 7 rows
    ("embedding", [np.empty((2, 3), np.int64), floats(7, 4)], {}, Work(0, 48 + 4 * 48), Work(24, 48 + 4 * (24 + 28))),
])
def test_an_operation_and_its_backward(op, arrays, settings, forward, backward):
    assert getattr(counts, op)(*arrays, **settings) == (forward, backward)


@pytest.mark.parametrize("causal", [True, False])
def test_attention_counts_the_pairs_that_are_visible(causal):
    batch, heads, key_heads, length, width, value_width = 2, 4, 2, 5, 6, 3
    pairs = heads * visible_keys((batch, length, length), causal=causal).sum()
    q, k, v = (floats(batch, n, length, d) for n, d in ((heads, width), (key_heads, width), (key_heads, value_width)))
    y = batch * heads * length * value_width
    forward, backward = counts.attention(q, k, v, causal=causal, window=None, query_start=None)
    assert forward == (pairs * (2 * width + 2 * value_width + 6), 4 * (q.size + k.size + v.size + y))
    assert backward == (pairs * (4 * width + 4 * value_width + 5), 4 * (2 * (q.size + k.size + v.size) + y))


def test_the_optimizer_and_the_norm():
    arrays = [floats(10) for _ in range(4)]
    assert counts.adamw_step(*arrays, step=1, betas=(0.9, 0.95)) == Work(150, 280)
    assert counts.global_norm(arrays[0]) == Work(20, 40)


GROUPED = LlamaConfig(vocab_size=31, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4,
                      num_key_value_heads=2, head_dim=6, max_position_embeddings=8)


@pytest.mark.parametrize("config", [TOY.config, GROUPED], ids=["tied", "grouped, with a head of its own"])
def test_the_weights_in_products_are_the_matrices_of_the_model(config):
    model = Llama(config, backend="numpy", seed=None)
    matrices = {name: weight.size for name, weight in model.parameters.items() if weight.ndim == 2}
    if not config.tie_word_embeddings:
        del matrices["model.embed_tokens.weight"]
    assert counts.product_parameters(config) == sum(matrices.values())


def test_the_operations_of_a_small_model_by_hand():
    # 2 layers with 4 · 16 · 16 + 3 · 16 · 24 weights and a head of 31 · 16, each 6 times for 3 · 8 tokens; and 6
    # products over 2 layers · 3 rows · 16 features · 36 pairs, a multiplication and an addition each.
    assert counts.model_flop(TOY.config, 3, 8) == 6 * (2 * 2176 + 496) * 24 + 6 * 2 * (2 * 3 * 16 * 36)


def test_decoding_reads_all_weights_but_of_a_separate_embedding_one_row():
    tied, grouped = Llama(TOY.config, backend="numpy"), Llama(GROUPED, backend="numpy", dtype="float64")
    assert counts.weight_bytes_per_token(tied) == 4 * sum(weight.size for weight in tied.parameters.values())
    table = grouped.parameters["model.embed_tokens.weight"].size
    others = sum(weight.size for weight in grouped.parameters.values()) - table
    assert counts.weight_bytes_per_token(grouped) == 8 * (others + 16)
