"""Text from a model and a tokenizer, piece by piece."""

import models_under_test as mut
import pytest

from tinyllama.generation.timing import Timing
from tinyllama.generation.writing import as_text, first_tokens, write
from tinyllama.tokenizers import BytePairTokenizer, CharacterTokenizer


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


@pytest.mark.parametrize("adds_bos, ids", [(True, [2, 0]), (None, [2, 0]), (False, [0])])
def test_a_prompt_comes_after_the_first_token_unless_the_tokenizer_says_otherwise(adds_bos, ids):
    tokenizer = BytePairTokenizer([b"a", b"b", "<s>"], [], bos_token_id=2, adds_bos=adds_bos)
    assert first_tokens(mut.tiny_model(), tokenizer, "a") == ids


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused():
    model = mut.tiny_model()
    size = model.config.vocab_size
    with pytest.raises(ValueError, match=f"expected one of at most {size} tokens, .* got one of {size + 1}"):
        write(model, tokenizer_of(size + 1), "a")


def test_a_token_beyond_the_tokenizer_has_no_text():
    """The tables of a model are often larger than its vocabulary."""
    assert list(as_text([1, 12, 2], tokenizer_of(5), continues=True)) == ["a", "b"]


def test_the_tokens_are_watched_on_their_way():
    model, timing = mut.tiny_model(), Timing()
    "".join(write(model, tokenizer_of(model.config.vocab_size), "abc", max_new_tokens=4, watch=timing.watch))
    assert timing.count == 4
    assert timing.reading > 0 and timing.writing > 0 and timing.rate == 3 / timing.writing
    assert Timing().rate == 0
