"""Encoding and decoding: everything round-trips, and the tokens are those of `tokenizers` and of no wrong encoder."""

import json
import unicodedata
from itertools import pairwise
from pathlib import Path

import bpe_by_brute_force as brute_force
import bpe_library
import numpy as np
import pytest
from bpe_cases import ENCODING, TRAINING

import tinyllama as tl
from tinyllama.tokenizers import BytePairTokenizer, bpe
from tinyllama.tokenizers.added_tokens import AddedToken
from tinyllama.tokenizers.bpe import merge_by_rank

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "bpe.json").read_text(encoding="utf-8"))
EVERYTHING = [document for documents in TRAINING.values() for document in documents]
BYTES = [bytes([byte]) for byte in range(256)]


@pytest.fixture(scope="module")
def tokenizer():
    return tl.train_tokenizer(EVERYTHING, 408)


def assert_encodes_like_the_library():
    """The check of every encoder: the ids of all texts, with special tokens and without."""
    tokenizer = tl.train_tokenizer(EVERYTHING, 408)
    for text in ENCODING:
        assert tokenizer.encode(text) == GOLDEN["safe"][text], text
        assert tokenizer.encode(text, allow_special=True) == GOLDEN["ids"][text], text


def random_texts(rng, number, usable=lambda character: True):
    """Short texts of ASCII, blanks, other scripts and everything else that is a character."""
    ranges = [(0x20, 0x7F), (0x61, 0x7B), (0x09, 0x0E), (0x20, 0x21), (0xA0, 0x250), (0x370, 0x600), (0x4E00, 0xA000),
              (0x1F300, 0x1F700), (0x2000, 0x2070), (0x0, 0xD800), (0xE000, 0x110000)]
    for _ in range(number):
        chosen = [ranges[i] for i in rng.integers(len(ranges), size=rng.integers(0, 24))]
        yield "".join(filter(usable, (chr(rng.integers(*each)) for each in chosen)))


# ---- round trips

def test_ten_thousand_random_texts_survive(tokenizer, rng):
    for text in random_texts(rng, 10_000):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode(ids, errors="strict") == text
        assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


def test_ten_thousand_random_strings_of_bytes_survive(tokenizer, rng):
    for _ in range(10_000):
        data = rng.integers(0, 256, size=rng.integers(0, 24), dtype=np.uint8).tobytes()
        assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data


def test_every_pair_of_bytes_survives(tokenizer):
    for first in range(256):
        for second in range(256):
            assert tokenizer.decode_bytes(tokenizer.encode_bytes(bytes([first, second]))) == bytes([first, second])


def test_bytes_of_a_text_have_the_tokens_of_the_text(tokenizer):
    for text in ENCODING:
        assert tokenizer.encode_bytes(text.encode()) == tokenizer.encode(text)
        assert tokenizer.encode_bytes(bytearray(text.encode())) == tokenizer.encode(text)


# ---- encode

def test_the_tokens_of_every_text_are_those_of_the_library():
    assert_encodes_like_the_library()


def test_live_the_tokens_are_those_of_the_library(tokenizer, rng):
    pytest.importorskip("tokenizers", reason="The library tokenizers is not installed; the golden file stands in.")
    theirs = bpe_library.train(EVERYTHING, 408)
    # which of the characters are letters changes with every Unicode: leave out those that this Python does not know
    texts = [*EVERYTHING, *ENCODING, *random_texts(rng, 3000, lambda c: unicodedata.category(c) != "Cn")]
    for text in texts:
        assert tokenizer.encode(text, allow_special=True) == theirs.encode(text).ids, text
    for text in ENCODING:
        assert theirs.encode(text).ids == GOLDEN["ids"][text]       # the golden file is what the library does today


def test_live_any_ids_decode_as_in_the_library(tokenizer, rng):
    pytest.importorskip("tokenizers", reason="The library tokenizers is not installed.")
    theirs = bpe_library.train(EVERYTHING, 408)
    for _ in range(2000):
        ids = rng.integers(0, 408, size=rng.integers(0, 20)).tolist()
        assert tokenizer.decode(ids) == theirs.decode(ids, skip_special_tokens=False)


def test_merging_is_that_of_taking_the_lowest_rank_again_and_again(rng):
    for _ in range(2000):
        size = int(rng.integers(2, 6))
        pairs = {(int(a), int(b)) for a, b in rng.integers(0, size, (8, 2))}
        merges = {}
        for rank, pair in enumerate(sorted(pairs, key=lambda _: rng.random())):
            merges[pair] = (rank, size + rank)
            if rng.random() < 0.7:
                merges[size + rank, int(rng.integers(0, size))] = (len(pairs) + rank, size + 20 + rank)
        tokens = rng.integers(0, size, rng.integers(0, 30)).tolist()
        assert merge_by_rank(tokens, merges) == brute_force.merge_by_rank(tokens, merges)


def test_a_long_word_takes_no_longer_than_its_length_asks(tokenizer):
    text = "a" * 200_000 + "你好" * 20_000        # taking one merge at a time by a search would take minutes
    assert tokenizer.decode(tokenizer.encode(text)) == text


def left_to_right(tokens, merges):
    tokens = list(tokens)
    place = 0
    while place < len(tokens) - 1:
        pair = (tokens[place], tokens[place + 1])
        if pair in merges:
            tokens[place:place + 2] = [merges[pair][1]]
            place = max(place - 1, 0)
        else:
            place += 1
    return tokens


def one_pass(tokens, merges):
    for pair, (_, merged) in sorted(merges.items(), key=lambda item: item[1]):
        for place in range(len(tokens) - 2, -1, -1):        # and from the right
            if tuple(tokens[place:place + 2]) == pair:
                tokens[place:place + 2] = [merged]
    return tokens


def highest_rank_first(tokens, merges):
    return brute_force.merge_by_rank(tokens, {pair: (-rank, merged) for pair, (rank, merged) in merges.items()})


def one_round_only(tokens, merges):
    ranks = [merges[pair] for pair in pairwise(tokens) if pair in merges]
    return brute_force.merge_by_rank(tokens, {p: m for p, m in merges.items() if m == min(ranks, default=None)})


@pytest.mark.parametrize("wrong", [left_to_right, one_pass, highest_rank_first, one_round_only,
                                   lambda tokens, merges: tokens])
def test_an_encoder_that_merges_in_another_order_is_rejected(wrong, monkeypatch):
    monkeypatch.setattr(bpe, "merge_by_rank", wrong)
    with pytest.raises(AssertionError):
        assert_encodes_like_the_library()


def test_an_encoder_that_does_not_cut_words_is_rejected(monkeypatch):
    monkeypatch.setattr(bpe, "split_words", lambda text, patterns: [text] if text else [])
    with pytest.raises(AssertionError):
        assert_encodes_like_the_library()


def test_encode_gives_plain_integers_and_encode_to_array_the_same_in_an_array(tokenizer):
    for text in ENCODING:
        ids = tokenizer.encode(text)
        array = tokenizer.encode_to_array(text)
        assert {type(token) for token in ids} <= {int}
        assert array.dtype == np.int32
        assert array.tolist() == ids


def test_bos_comes_first_where_it_is_asked_for(tokenizer):
    assert tokenizer.encode("be", bos=True) == [0, *tokenizer.encode("be")]
    with pytest.raises(ValueError, match="bos: expected False, got True; this tokenizer has no token that begins"):
        tl.train_tokenizer("ab", 256, bos_token=None, eos_token=None).encode("ab", bos=True)


def test_the_name_of_a_special_token_is_text_unless_it_is_allowed_to_be_more(tokenizer):
    text = "the end<|end_of_text|><|begin_of_text|> <|end_of"
    safe = tokenizer.encode(text)
    assert not {0, 1} & set(safe)
    assert tokenizer.decode(safe) == text
    special = tokenizer.encode(text, allow_special=True)
    assert special == [*tokenizer.encode("the end"), 1, 0, *tokenizer.encode(" <|end_of")]
    assert tokenizer.decode(special) == text
    assert not {0, 1} & set(tokenizer.encode_to_array(text).tolist() + tokenizer.encode_bytes(text.encode()))


def test_of_special_tokens_that_begin_alike_the_longest_counts():
    tokenizer = tl.train_tokenizer("ab", 258, bos_token="<s>", eos_token="<s>>")
    assert tokenizer.encode("<s>><s>", allow_special=True) == [1, 0]


def test_special_tokens_without_any_are_no_error():
    tokenizer = tl.train_tokenizer("ab", 256, bos_token=None, eos_token=None)
    assert tokenizer.encode("ab", allow_special=True) == tokenizer.encode("ab")


def test_the_cache_changes_nothing_and_stays_small(monkeypatch):
    monkeypatch.setattr(BytePairTokenizer, "CACHED_WORDS", 5)
    small = tl.train_tokenizer(EVERYTHING, 408)
    for text in [*ENCODING, *ENCODING]:
        assert small.encode(text) == GOLDEN["safe"][text]
        assert len(small._words) <= 5


# ---- decode

@pytest.mark.parametrize("form", [
    list, tuple, iter, np.array, lambda ids: [np.int64(i) for i in ids], lambda ids: (i for i in ids),
    lambda ids: np.array(ids, dtype=np.uint16),
])
def test_whatever_holds_the_ids_decode_gives_the_text(tokenizer, form):
    ids = tokenizer.encode("the cat 你好")
    assert tokenizer.decode(form(ids)) == "the cat 你好"
    assert tokenizer.decode_bytes(form(ids)) == "the cat 你好".encode()


def test_nothing_and_a_single_token(tokenizer):
    assert tokenizer.encode("") == []
    assert tokenizer.encode_to_array("").shape == (0,)
    assert (tokenizer.decode([]), tokenizer.decode_bytes([])) == ("", b"")
    assert tokenizer.decode(2) == "!"


def test_special_tokens_have_a_name_and_no_bytes(tokenizer):
    assert tokenizer.decode([0, 2, 1]) == "<|begin_of_text|>!<|end_of_text|>"
    assert tokenizer.decode_bytes([0, 2, 1]) == b"!"
    assert (tokenizer.token_bytes(0), tokenizer.token_bytes(2)) == (b"", b"!")


def test_half_a_character_is_shown_as_such_or_refused(tokenizer):
    half = tokenizer.encode_bytes(b"a\xe4\xbd")
    assert tokenizer.decode(half) == "a\ufffd"
    assert tokenizer.decode(half, errors="ignore") == "a"
    assert tokenizer.decode(half, errors="surrogateescape") == "a\udce4\udcbd"
    with pytest.raises(UnicodeDecodeError):
        tokenizer.decode(half, errors="strict")
    with pytest.raises(LookupError, match="no_such_handler"):
        tokenizer.decode([], errors="no_such_handler")


@pytest.mark.parametrize("decode", ["decode", "decode_bytes"])
@pytest.mark.parametrize(("ids", "message"), [
    ([0, 408], "ids: position 1 holds 408, expected 0 to 407, since the vocabulary has 408 tokens"),
    ([-1], "ids: position 0 holds -1"),
    ([0.5], "ids: expected integers, got float64"),
    (np.zeros((2, 3), dtype=int), r"ids: expected one sequence of tokens, got an array of shape \(2, 3\)"),
])
def test_ids_that_are_no_tokens_are_refused(tokenizer, decode, ids, message):
    with pytest.raises(ValueError, match=message):
        getattr(tokenizer, decode)(ids)


@pytest.mark.parametrize("token", [-1, 408, 1.0, None, "a"])
def test_a_token_that_is_none_is_refused(tokenizer, token):
    with pytest.raises(ValueError, match="token: expected an integer from 0 to 407, got"):
        tokenizer.token_bytes(token)


@pytest.mark.parametrize("call", ["encode", "encode_to_array"])
def test_what_is_no_text_is_refused_by_name(tokenizer, call):
    with pytest.raises(ValueError, match=r"text: position 2 holds a lone surrogate \(U\+D83E\)"):
        getattr(tokenizer, call)("ab\ud83e")
    with pytest.raises(TypeError, match="text: expected a str, got bytes"):
        getattr(tokenizer, call)(b"ab")


# ---- made by hand

def test_a_tokenizer_can_be_made_by_hand():
    tokenizer = BytePairTokenizer([*BYTES, b"ab", "<s>"], [(b"a", b"b")], bos_token_id=257)
    assert tokenizer.encode("abba", bos=True) == [257, 256, 98, 97]
    assert tokenizer.merges == [(0, b"a", b"b", b"ab", None)]
    assert repr(tokenizer) == "<BytePairTokenizer of 258 tokens, 1 of them merges, 1 special>"


def test_whole_words_need_no_merges_where_that_is_asked_for():
    vocabulary = [*BYTES, b"ab", b"abc"]
    assert BytePairTokenizer(vocabulary, [(b"a", b"b")], whole_words=True).encode("abc abc") == [257, 32, 256, 99]
    assert BytePairTokenizer(vocabulary, [(b"a", b"b")]).encode("abc") == [256, 99]


def test_a_byte_without_a_token_is_named():
    tokenizer = BytePairTokenizer([b"a", b"b", b"ab"], [(b"a", b"b")])
    assert tokenizer.encode("abba") == [2, 1, 0]
    with pytest.raises(ValueError, match="text: 'cab' holds byte 0x63, which has no token here"):
        tokenizer.encode("cab")


@pytest.mark.parametrize(("vocabulary", "merges", "settings", "message"), [
    ([b"a", b"b", b"a"], [], {}, "vocabulary: expected distinct pieces, got b'a' more than once"),
    ([b"a", "<s>", "<s>"], [], {}, "vocabulary: expected distinct pieces, got '<s>' more than once"),
    ([b"a", ""], [], {}, "vocabulary: expected special tokens of at least one character"),
    ([b" a", "Ġa"], [], {}, "vocabulary: expected special tokens that are spelled like no piece, got 'Ġa'"),
    ([b"a", b"b"], [(b"a", b"b")], {}, "merges: expected pieces of the vocabulary, got b'ab'"),
    ([b"a", b"b"], [(b"a", b"c")], {}, "merges: expected pieces of the vocabulary, got b'c'"),
    ([b"a", b"aa"], [(b"a", b"a")] * 2, {}, "merges: expected 2 distinct pairs, got 1"),
    ([b"a", b"aa"], [(b"a", b"a")], {"counts": [1, 2]}, "counts: expected one for each of the 1 merges, got 2"),
    ([b"a", "<s>"], [], {"added_tokens": []}, "expected one for each str of the vocabulary, got none for '<s>'"),
    ([b"a", "<s>"], [], {"added_tokens": [("<s>", 0)]}, "a token of the vocabulary that is spelled '<s>', got 0"),
    ([b"a", "<s>"], [], {"added_tokens": [("<s>", 1), ("a", 5)]}, "that is spelled 'a', got 5"),
    ([b"a", "<s>"], [], {"added_tokens": [("<s>", 1), ("<s>", 1)]}, "added_tokens: expected distinct texts, got one"),
    ([b"a"], [], {"normalization": "NFD"}, "normalization: expected 'NFC' or None, got 'NFD'"),
    ([b"a"], [], {"adds_bos": True}, "adds_bos: expected False or None, since no token begins a text, got True"),
    ([b"a", "<s>"], [], {"bos_token_id": 0}, "bos_token_id: expected None or one of the special tokens .* got 0"),
    ([b"a", "<s>"], [], {"eos_token_id": 5}, "eos_token_id: expected None or one of the special tokens .* got 5"),
])
def test_parts_that_do_not_fit_together_are_refused(vocabulary, merges, settings, message):
    if "added_tokens" in settings:
        settings = {"added_tokens": [AddedToken(*token) for token in settings["added_tokens"]]}
    with pytest.raises(ValueError, match=message):
        BytePairTokenizer(vocabulary, merges, **settings)
