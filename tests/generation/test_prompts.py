"""Prompts of any form are taken; bad arguments are refused before the first token is asked for."""

import models_under_test as mut
import numpy as np
import pytest

MODEL = mut.tiny_model()


@pytest.mark.parametrize("prompt", [
    (3, 1, 7), np.array([3, 1, 7]), np.array([3, 1, 7], dtype=np.uint8), [np.int64(3), np.int32(1), 7],
    np.array([3, 0, 1, 0, 7])[::2], range(3, 4), iter([3, 1, 7]),
], ids=["tuple", "array", "bytes", "NumPy integers", "a view", "range", "iterator"])
def test_one_prompt(prompt):
    expected = [3] if isinstance(prompt, range) else [3, 1, 7]
    tokens = list(MODEL.generate(prompt, 4))
    assert tokens == list(MODEL.generate(expected, 4))
    assert all(type(token) is int for token in tokens)


@pytest.mark.parametrize("prompts", [
    ((3, 1), (7, 2)), np.array([[3, 1], [7, 2]]), [np.array([3, 1]), [7, 2]], iter([[3, 1], (7, 2)]),
], ids=["tuples", "array", "mixed", "iterator"])
def test_several_prompts(prompts):
    tokens = np.stack(list(MODEL.generate(prompts, 4)))
    np.testing.assert_array_equal(tokens, np.stack(list(MODEL.generate([[3, 1], [7, 2]], 4))))
    assert tokens.shape == (4, 2)


def test_a_prompt_is_not_changed():
    prompt = [[3, 1], [7]]
    list(MODEL.generate(prompt, 4))
    assert prompt == [[3, 1], [7]]


def test_the_longest_prompt_that_fits():
    assert len(list(MODEL.generate([1] * 9, 1))) == 1


@pytest.mark.parametrize("prompt, error, message", [
    ("Once upon", TypeError, "prompt_ids: expected token ids, which a tokenizer makes from text, got str"),
    (b"Once", TypeError, "prompt_ids: expected token ids, which a tokenizer makes from text, got bytes"),
    (["Once", "upon"], TypeError, "prompt_ids: expected integers, got <U4"),
    ([], ValueError, "prompt_ids: expected at least one token, got an empty prompt"),
    (np.array([], dtype=int), ValueError, "prompt_ids: expected at least one token, got an empty prompt"),
    ([[1, 2], []], ValueError, "prompt_ids[1]: expected at least one token, got an empty prompt"),
    ([1] * 10, ValueError, "prompt_ids: expected at most 9 tokens a row (max_position_embeddings), got 10"),
    ([[1], [1] * 10], ValueError, "prompt_ids[1]: expected at most 9 tokens a row (max_position_embeddings), got 10"),
    ([1, 13], ValueError, "prompt_ids: expected tokens from 0 to 12, got 13 at [0, 1]"),
    ([[1], [2, -1]], ValueError, "prompt_ids[1]: expected tokens from 0 to 12, got -1 at [0, 1]"),
    ([1.0, 2.0], TypeError, "prompt_ids: expected integers, got float64"),
    ([[1], [2.5]], TypeError, "prompt_ids[1]: expected integers, got float64"),
    (np.ones((1, 2, 3), dtype=int), ValueError, "prompt_ids[0]: expected the shape (B, T)"),
], ids=str)
def test_bad_prompts(prompt, error, message):
    with pytest.raises(error) as caught:
        MODEL.generate(prompt)              # the iterator is not even begun
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("settings, message", [
    ({"temperature": -0.1}, "temperature: expected a number of at least 0, got -0.1"),
    ({"temperature": float("nan")}, "temperature: expected a number of at least 0, got nan"),
    ({"top_k": 0}, "top_k: expected at least 1, or None, got 0"),
    ({"top_k": -5}, "top_k: expected at least 1, or None, got -5"),
    ({"top_p": 0}, "top_p: expected 0 < top_p <= 1, or None, got 0"),
    ({"top_p": 1.5}, "top_p: expected 0 < top_p <= 1, or None, got 1.5"),
    ({"min_p": -0.1}, "min_p: expected 0 <= min_p <= 1, or None, got -0.1"),
    ({"min_p": 1.1}, "min_p: expected 0 <= min_p <= 1, or None, got 1.1"),
    ({"max_new_tokens": -1}, "max_new_tokens: expected at least 0, got -1"),
    ({"on_limit": "wrap"}, "on_limit: expected 'stop' or 'slide', got 'wrap'"),
], ids=str)
@pytest.mark.parametrize("prompt", [[3], [[3], [4, 5]]], ids=["one", "several"])
def test_bad_settings(prompt, settings, message):
    with pytest.raises(ValueError) as caught:
        MODEL.generate(prompt, **settings)
    assert str(caught.value) == message


@pytest.mark.parametrize("settings", [{"top_k": 1000}, {"top_p": 1.0}, {"min_p": 0.0}, {"min_p": 1.0}, {"top_k": 1}],
                         ids=str)
def test_settings_at_the_end_of_their_range(settings):
    tokens = list(MODEL.generate([3], 5, **settings))
    if settings in ({"min_p": 1.0}, {"top_k": 1}):
        assert tokens == list(MODEL.generate([3], 5, temperature=0))
    else:
        assert tokens == list(MODEL.generate([3], 5))
