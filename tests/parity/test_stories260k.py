"""A real trained LLaMA, stories260K of llama2.c: what it writes, and the two pairings in which it can be rotated."""

import functools
import json
import math

import numpy as np
import pytest

import tinyllama as tl
from tinyllama.ops import rope_forward


@pytest.fixture
def checkpoint(shared_data):
    """(config, weights): llama2.c's version-0 layout, all float32, each kind of matrix for all layers in one piece."""
    data = (shared_data / "stories260K.bin").read_bytes()
    hidden, intermediate, layers, heads, key_value_heads, vocabulary, context = np.frombuffer(data, "<i4", 7).tolist()
    config = tl.LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=key_value_heads, max_position_embeddings=context,
        tie_word_embeddings=True, bos_token_id=1)
    key_value = key_value_heads * config.head_dim
    offset = 7 * 4

    def take(*shape):
        nonlocal offset
        array = np.frombuffer(data, "<f4", math.prod(shape), offset).reshape(shape)
        offset += array.nbytes
        return array

    weights = {"model.embed_tokens.weight": take(vocabulary, hidden)}
    for name, *shape in (
            ("input_layernorm", hidden), ("self_attn.q_proj", hidden, hidden),
            ("self_attn.k_proj", key_value, hidden), ("self_attn.v_proj", key_value, hidden),
            ("self_attn.o_proj", hidden, hidden), ("post_attention_layernorm", hidden),
            ("mlp.gate_proj", intermediate, hidden), ("mlp.down_proj", hidden, intermediate),
            ("mlp.up_proj", intermediate, hidden)):
        for i, weight in enumerate(take(layers, *shape)):
            weights[f"model.layers.{i}.{name}.weight"] = weight
    weights["model.norm.weight"] = take(hidden)
    # What is left are tables of cos and sin, which we compute ourselves: the output weights are those of the embedding.
    assert offset + context * config.head_dim * 4 == len(data)
    return config, weights


@pytest.fixture
def golden(shared_data):
    return json.loads((shared_data / "stories260K_golden.json").read_text(encoding="utf-8"))["greedy_ids_200"]


def make(checkpoint, *, permuted, backend="numpy", dtype="float32"):
    config, weights = checkpoint
    model = tl.Llama(config, backend=backend, dtype=dtype)
    assert set(model.parameters) == set(weights)
    for name, weight in weights.items():
        to_permute = permuted and is_rotated(name)
        model.parameters[name][...] = to_half_split(weight, config.head_dim) if to_permute else weight
    return model


def is_rotated(name):
    return "q_proj" in name or "k_proj" in name


def to_half_split(weight, head_dim):
    """The rows of each head from (0, 1), (2, 3), ... as pairs to (0, D/2), (1, D/2 + 1), ...: evens, then odds."""
    heads = weight.reshape(-1, head_dim, weight.shape[-1])                  # (H D, hidden) -> (H, D, hidden)
    return np.concatenate([heads[:, 0::2], heads[:, 1::2]], axis=1).reshape(weight.shape)


def continuation(model, prompt, count):
    return list(model.generate(prompt, max_new_tokens=count, temperature=0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_tells_its_story_token_for_token(checkpoint, golden, dtype):
    assert continuation(make(checkpoint, permuted=True, dtype=dtype), golden[:1], 200) == golden[1:]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_fused_step_of_a_backend_tells_it_token_for_token(monkeypatch, backend, checkpoint, golden, dtype):
    if backend.new_token_step is None:
        pytest.skip("This backend has no fused step.")
    steps, new_token_step = [], backend.new_token_step

    def counting(**weights):
        step = new_token_step(**weights)
        return lambda token, position: (steps.append(position), step(token, position))[1]

    monkeypatch.setattr(backend, "new_token_step", counting)
    model = make(checkpoint, permuted=True, backend=backend, dtype=dtype)
    assert continuation(model, golden[:1], 200) == golden[1:]
    assert steps == list(range(200))


def test_the_cache_of_keys_and_values_changes_nothing(checkpoint, golden):
    # All tokens in one pass, without the cache: after each, the next is again the most probable.
    model = make(checkpoint, permuted=True)
    logits = model.logits([golden[:-1]])                                    # (1, 200, 512)
    assert np.argmax(logits[0], axis=-1).tolist() == golden[1:]
    # And half of them in one pass, which fills the cache, before the others follow one by one.
    assert continuation(model, golden[:101], 20) == golden[101:121]


def test_without_the_permutation_it_babbles(checkpoint, golden):
    # The negative control: rotating the wrong pairs would not raise, it would only be wrong.
    assert continuation(make(checkpoint, permuted=False), golden[:1], 20) != golden[1:21]


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("float64", 1e-12)])
def test_permuted_weights_or_interleaved_rotation_are_the_same_model(checkpoint, golden, dtype, tolerance):
    def assert_same(got, expected):
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.max(np.abs(expected)))

    interleaved = tl.load_backend("numpy").with_ops(rope_forward=functools.partial(rope_forward, interleaved=True))
    one = make(checkpoint, permuted=True, dtype=dtype)
    other = make(checkpoint, permuted=False, dtype=dtype, backend=interleaved)
    ids, targets = np.reshape(golden[:-1], (4, 50)), np.reshape(golden[1:], (4, 50))
    assert_same(one.logits(ids), other.logits(ids))
    loss, gradients = one.loss_and_grads(ids, targets)
    other_loss, other_gradients = other.loss_and_grads(ids, targets)
    assert_same(loss, other_loss)
    for name, expected in other_gradients.items():
        assert_same(gradients[name], to_half_split(expected, one.config.head_dim) if is_rotated(name) else expected)
