import json
import os

import numpy as np
import pytest

from tinyllama.tokenizers import CharacterTokenizer

TEXT = "To be, or not to be:\nthat is the question. Ça va? 你好 🦙\t\"quoted\" \\ \u2028\x00"


@pytest.fixture
def tokenizer():
    return CharacterTokenizer.train(TEXT)


def test_the_vocabulary_is_the_distinct_characters_by_code_point(tokenizer):
    assert tokenizer.characters == "".join(sorted(set(TEXT)))
    assert tokenizer.vocab_size == len(set(TEXT))
    assert tokenizer.bos_token_id is None
    assert tokenizer.eos_token_id is None
    assert repr(CharacterTokenizer("ab")) == "CharacterTokenizer('ab')"


def test_a_token_is_the_place_of_its_character():
    tokenizer = CharacterTokenizer.train("hello")      # e h l o
    assert tokenizer.encode("hello") == [1, 0, 2, 2, 3]
    assert tokenizer.decode([1, 0, 2, 2, 3]) == "hello"


def test_the_order_of_the_characters_is_kept():
    tokenizer = CharacterTokenizer("zaé")
    assert tokenizer.encode("aéz") == [1, 2, 0]
    assert tokenizer.decode([0, 1, 2]) == "zaé"


def test_encode_gives_plain_integers_and_encode_to_array_the_same_in_an_array(tokenizer):
    ids = tokenizer.encode(TEXT)
    array = tokenizer.encode_to_array(TEXT)
    assert {type(i) for i in ids} == {int}
    assert array.dtype == np.int32
    assert array.shape == (len(TEXT),)
    assert array.tolist() == ids


def test_nothing_encodes_to_nothing_and_back(tokenizer):
    assert tokenizer.encode("") == []
    assert tokenizer.encode_to_array("").shape == (0,)
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("form", [
    list, tuple, iter, np.array, lambda ids: [np.int64(i) for i in ids], lambda ids: (i for i in ids),
    lambda ids: np.array(ids, dtype=np.uint16), lambda ids: np.array(ids, dtype=np.int32).repeat(2)[::2],
])
def test_whatever_holds_the_ids_decode_gives_the_text(tokenizer, form):
    assert tokenizer.decode(form(tokenizer.encode(TEXT))) == TEXT


def test_decode_accepts_a_single_token():
    tokenizer = CharacterTokenizer("ab")
    assert tokenizer.decode(1) == "b"
    assert tokenizer.decode(np.int64(0)) == "a"


def test_random_text_survives_the_round_trip():
    rng = np.random.default_rng(0)
    for size in (1, 7, 1000):
        codes = rng.choice(np.r_[0:0xD800, 0xE000:0x110000], size=size)
        text = "".join(map(chr, codes))
        tokenizer = CharacterTokenizer.train(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(("text", "message"), [
    ("to be", r"position 3 holds 'b' \(U\+0062\), .* the 3 characters"),     # between two that are known
    ("to\nbe", r"position 2 holds '\\n' \(U\+000A\)"),                       # below the smallest
    ("ü to", r"position 0 holds 'ü' \(U\+00FC\)"),                           # beyond the largest
    ("o to 🦙", r"position 5 holds '🦙' \(U\+1F999\)"),
])
def test_encode_names_an_unknown_character_and_its_place(text, message):
    with pytest.raises(ValueError, match=message):
        CharacterTokenizer(" ot").encode(text)


def test_encode_has_no_bos_to_give(tokenizer):
    with pytest.raises(ValueError, match=r"bos: .* no special tokens"):
        tokenizer.encode("be", bos=True)


def test_the_bytes_of_a_token_are_those_of_its_character(tokenizer):
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode(TEXT))) == TEXT.encode("utf-8")
    assert CharacterTokenizer("é").token_bytes(np.int64(0)) == b"\xc3\xa9"
    for token in (-1, tokenizer.vocab_size, 0.0, "a"):
        with pytest.raises(ValueError, match=rf"token: expected an integer from 0 to {tokenizer.vocab_size - 1}, got"):
            tokenizer.token_bytes(token)


def test_there_are_no_merges_and_no_special_tokens(tokenizer):
    assert (tokenizer.merges, tokenizer.special_tokens) == ([], {})


@pytest.mark.parametrize("ids", [[0, 1, 2], np.array([0, 1, -1]), [1, 0, 2**40]])
def test_decode_names_an_id_that_is_out_of_range_and_its_place(ids):
    with pytest.raises(ValueError, match=rf"position 2 holds {ids[2]}, expected 0 to 1, .* 2 tokens"):
        CharacterTokenizer("ab").decode(ids)


@pytest.mark.parametrize(("ids", "message"), [
    (np.zeros((2, 3), dtype=int), r"one sequence .* shape \(2, 3\)"),
    ([0.0, 1.0], "expected integers, got float64"),
    ([True], "expected integers, got bool"),
    ("ab", "expected integers, got <U2"),
])
def test_decode_refuses_what_is_not_a_row_of_integers(ids, message):
    with pytest.raises(ValueError, match=message):
        CharacterTokenizer("ab").decode(ids)


def test_training_needs_text():
    with pytest.raises(ValueError, match=r"text: .* empty"):
        CharacterTokenizer.train("")


@pytest.mark.parametrize("call", [CharacterTokenizer.train, CharacterTokenizer("ab").encode])
def test_half_a_character_is_refused_by_name(call):
    with pytest.raises(ValueError, match=r"text: position 2 holds a lone surrogate \(U\+D83E\)"):
        call("ab\ud83e")


@pytest.mark.parametrize("call", [CharacterTokenizer.train, CharacterTokenizer("ab").encode])
def test_bytes_are_refused_by_name(call):
    with pytest.raises(TypeError, match="text: expected a str, got bytes"):
        call(b"ab")


@pytest.mark.parametrize(("characters", "message"), [
    ("", "characters: expected at least one"),
    ("aba", "characters: expected distinct characters, got 'a' more than once"),
    ("a\udc00", "characters: position 1 holds a lone surrogate"),
])
def test_a_tokenizer_needs_distinct_whole_characters(characters, message):
    with pytest.raises(ValueError, match=message):
        CharacterTokenizer(characters)


def test_save_and_load(tokenizer, tmp_path):
    path = tmp_path / "made" / "on" / "the" / "way.json"
    tokenizer.save(path)
    assert CharacterTokenizer.load(path).characters == tokenizer.characters
    assert CharacterTokenizer.load(str(path)).encode(TEXT) == tokenizer.encode(TEXT)
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "type": "characters", "version": 1, "characters": tokenizer.characters,
    }


def test_save_to_a_directory_writes_tokenizer_json_in_it(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    assert CharacterTokenizer.load(tmp_path).characters == tokenizer.characters


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(tokenizer, tmp_path, monkeypatch):
    tokenizer.save(tmp_path)

    def no_replace(source, target):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "replace", no_replace)
    with pytest.raises(OSError, match="the disk is full"):
        CharacterTokenizer("ab").save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    assert CharacterTokenizer.load(tmp_path).characters == tokenizer.characters
