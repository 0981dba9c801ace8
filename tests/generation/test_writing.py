"""Text from a model and a tokenizer, piece by piece."""

import models_under_test as mut
import pytest

from tinyllama.generation.writing import write
from tinyllama.tokenizers import CharacterTokenizer


def tokenizer_of(size, first="\n"):
    return CharacterTokenizer(first + "".join(chr(ord("a") + i) for i in range(size - 1)))


def test_pieces_are_the_tokens_of_generate():
    model = mut.tiny_model()
    tokenizer = tokenizer_of(model.config.vocab_size)
    pieces = list(write(model, tokenizer, "abc", max_new_tokens=4, temperature=0))
    assert pieces == [tokenizer.decode([token]) for token in model.generate([1, 2, 3], 4, temperature=0)]


@pytest.mark.parametrize("first, prompt_ids", [("\n", [0]), ("A", [0])], ids=["line break", "first token"])
def test_without_a_prompt_it_begins_with_a_line_break_or_the_first_token(first, prompt_ids):
    model = mut.tiny_model()
    tokenizer = tokenizer_of(model.config.vocab_size, first)
    expected = tokenizer.decode(list(model.generate(prompt_ids, 3, temperature=0)))
    assert "".join(write(model, tokenizer, max_new_tokens=3, temperature=0)) == expected


@pytest.mark.parametrize("difference", [-1, 1])
def test_a_tokenizer_of_another_model_is_refused(difference):
    model = mut.tiny_model()
    size = model.config.vocab_size
    with pytest.raises(ValueError, match=f"expected one of {size} tokens, .* got one of {size + difference}"):
        write(model, tokenizer_of(size + difference), "a")
