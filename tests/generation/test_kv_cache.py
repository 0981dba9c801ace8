"""The cache of keys and values changes nothing but the time."""

import models_under_test as mut
import numpy as np
import pytest

from tinyllama.backends import load_backend
from tinyllama.generation import KVCache
from tinyllama.models import decoding
from tinyllama.models.decoding import new_step

KINDS = {
    "GQA": {}, "MHA": {"num_key_value_heads": 4}, "MQA": {"num_key_value_heads": 1}, "window": {"sliding_window": 3},
    "learned": {"positions": "learned"}, "sinusoidal": {"positions": "sinusoidal"}, "none": {"positions": "none"},
    "scaled rotation": {"rope_scaling": mut.LLAMA3}, "biases": {"attention_bias": True},
    "tied and shared": {"tie_word_embeddings": True, "num_hidden_layers": 3, "num_unique_layers": 2},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def feed(step, *pieces):
    """Put pieces of equal rows through a step; the logits after each of them."""
    return [step(np.array(piece), np.full(len(piece), len(piece[0]))) for piece in pieces]


def close(received, expected):
    np.testing.assert_allclose(received, expected, rtol=0, atol=1e-12)


@every_kind
@pytest.mark.parametrize("cuts", [[1, 2, 3, 4, 5, 6], [], [3], [1, 4], [2, 3, 6]], ids=str)
def test_tokens_in_pieces_have_the_logits_of_the_whole(kind, cuts):
    model = mut.tiny_model(**KINDS[kind])
    whole = model.logits(mut.IDS)
    logits = feed(new_step(model, 3, 7), *np.split(mut.IDS, cuts, axis=1))
    for end, received in zip([*cuts, 7], logits, strict=True):
        close(received, whole[:, end - 1])


@every_kind
def test_rows_of_unequal_length_have_the_logits_that_they_have_alone(kind):
    model = mut.tiny_model(**KINDS[kind])
    step = new_step(model, 3, 9)
    lengths = [5, 1, 3]
    first = step(np.array([[3, 1, 3, 7, 3], [5, 0, 0, 0, 0], [1, 4, 3, 0, 0]]), np.array(lengths))
    then = step(np.array([[2], [2], [9]]), np.array([1, 1, 1]))
    last = step(np.array([[8, 1], [6, 0], [0, 4]]), np.array([2, 1, 2]))
    texts = [[3, 1, 3, 7, 3, 2, 8, 1], [5, 2, 6], [1, 4, 3, 9, 0, 4]]
    for row, text in enumerate(texts):
        alone = model.logits([text])[0]
        close(first[row], alone[lengths[row] - 1])
        close(then[row], alone[lengths[row]])
        close(last[row], alone[-1])


@every_kind
def test_a_row_that_pauses_is_not_disturbed_and_does_not_disturb(kind):
    model = mut.tiny_model(**KINDS[kind])
    step = new_step(model, 2, 9)
    feed(step, [[3, 1, 3], [5, 5, 2]])
    for token in (7, 12):
        step(np.array([[token], [0]]), np.array([1, 0]))        # the second row rests; its 0 is padding
    logits = step(np.array([[0], [1]]), np.array([1, 1]))
    close(logits[0], model.logits([[3, 1, 3, 7, 12, 0]])[0, -1])
    close(logits[1], model.logits([[5, 5, 2, 1]])[0, -1])


@every_kind
def test_a_row_that_is_full_does_not_disturb_the_others(kind):
    model = mut.tiny_model(**KINDS[kind])
    step = new_step(model, 2, 4)
    step(np.array([[3, 1, 3, 7], [5, 5, 0, 0]]), np.array([4, 2]))      # the first row fills the capacity of 4
    logits = step(np.array([[0], [2]]), np.array([0, 1]))
    close(logits[1], model.logits([[5, 5, 2]])[0, -1])


def test_the_memory_is_two_arrays_with_room_for_the_capacity():
    cache = KVCache(load_backend("numpy"), layers=3, batch_size=2, key_value_heads=5, capacity=7, head_dim=4,
                    dtype="float32")
    assert cache.keys.shape == cache.values.shape == (3, 2, 5, 7, 4)
    assert cache.keys.dtype == cache.values.dtype == np.float32
    assert cache.lengths.tolist() == [0, 0]


def test_writing_returns_all_keys_and_values_so_far():
    cache = KVCache(load_backend("numpy"), layers=2, batch_size=2, key_value_heads=3, capacity=7, head_dim=4,
                    dtype="float64")
    rng = np.random.default_rng(0)
    k, v = rng.normal(size=(2, 2, 3, 5, 4))                             # (B, KV, T, D) each
    for part in (slice(0, 3), slice(3, 4), slice(4, 5)):
        width = part.stop - part.start
        assert cache.start(width, np.full(2, width)) == (part, part.start, part.stop)
        for layer in range(2):
            keys, values = cache.write(layer, (1 + layer) * k[:, :, part], v[:, :, part])
            np.testing.assert_array_equal(keys, (1 + layer) * k[:, :, :part.stop])
            np.testing.assert_array_equal(values, v[:, :, :part.stop])
        cache.finish()
    assert cache.lengths.tolist() == [5, 5]


def test_rows_of_unequal_length_are_written_to_places_of_their_own():
    cache = KVCache(load_backend("numpy"), layers=1, batch_size=2, key_value_heads=3, capacity=7, head_dim=4,
                    dtype="float64")
    rng = np.random.default_rng(0)
    k, v = rng.normal(size=(2, 2, 3, 4, 4))
    cache.start(4, np.array([4, 2]))
    cache.write(0, k, v)
    cache.finish()
    k_new, v_new = rng.normal(size=(2, 2, 3, 1, 4))
    positions, query_start, key_length = cache.start(1, np.array([1, 1]))
    assert (positions.tolist(), query_start.tolist(), key_length.tolist()) == ([[4], [2]], [4, 2], [5, 3])
    keys, values = cache.write(0, k_new, v_new)
    np.testing.assert_array_equal(keys[0], np.concatenate([k[0], k_new[0]], axis=1))
    np.testing.assert_array_equal(values[1, :, :3], np.concatenate([v[1, :, :2], v_new[1]], axis=1))


@pytest.mark.parametrize("prompt, max_new_tokens, capacity", [
    ([1, 2, 3], 4, 7), ([[1, 2], [3, 4, 5, 6]], 2, 6), ([1, 2, 3], 6, 9)])
def test_room_is_made_for_the_tokens_to_come_and_no_more(monkeypatch, prompt, max_new_tokens, capacity):
    made = []

    class Noted(KVCache):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(decoding, "KVCache", Noted)
    list(mut.tiny_model(dtype="float32").generate(prompt, max_new_tokens))
    assert [cache.capacity for cache in made] == [capacity]
    batch = len(prompt) if isinstance(prompt[0], list) else 1
    assert made[0].keys.shape == (2, batch, 2, capacity, 4)         # (layers, B, KV, capacity, D)
    assert made[0].keys.dtype == np.float32


def test_only_the_new_token_is_computed():
    calls = []
    model = mut.tiny_model(backend=mut.spying(calls, "embedding_forward", "attention_forward"))
    list(model.generate([3, 1, 3], max_new_tokens=4))
    read = [args[0].shape for name, args, _, _ in calls if name == "embedding_forward"]
    assert read == [(1, 3), (1, 1), (1, 1), (1, 1)]
    attended = [(args[0].shape, args[1].shape) for name, args, _, _ in calls if name == "attention_forward"]
    lengths = [(3, 3), (1, 4), (1, 5), (1, 6)]
    assert attended == [((1, 4, q, 4), (1, 2, k, 4)) for q, k in lengths for _ in range(2)]     # two layers
    # Attention is told how many keys are real, by which a kernel may skip the others.
    assert [kwargs["key_length"] for name, _, kwargs, _ in calls if name == "attention_forward"][::2] == [3, 4, 5, 6]


def test_attention_is_told_the_lengths_of_unequal_rows():
    calls = []
    model = mut.tiny_model(backend=mut.spying(calls, "attention_forward"))
    list(model.generate([[3, 1, 3], [5]], max_new_tokens=3))
    told = [(kwargs["query_start"].tolist(), kwargs["key_length"].tolist()) for _, _, kwargs, _ in calls[::2]]
    assert told == [([0, 0], [3, 1]), ([3, 1], [4, 2]), ([4, 2], [5, 3])]
