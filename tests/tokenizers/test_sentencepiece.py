"""Encoding and decoding: the tokens and texts are those of `sentencepiece`, and of no encoder with other rules."""

import base64
import functools
import importlib.util
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import sentencepiece_by_brute_force as brute_force
from sentencepiece_files import BYTES, NAMES, model_file, normal
from varied_texts import varied_texts

import tinyllama as tl
from tinyllama.tokenizers import SentencePieceTokenizer, sentencepiece
from tinyllama.tokenizers.added_tokens import AddedToken
from tinyllama.tokenizers.bpe import merge_by_rank
from tinyllama.tokenizers.merge_by_score import merge_by_score, ranked_pairs
from tinyllama.tokenizers.pieces import Kind, Piece
from tinyllama.tokenizers.sentencepiece_model import read_sentencepiece
from tinyllama.tokenizers.spaces import Spaces

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "sentencepiece.json").read_text(encoding="utf-8"))
MODELS = list(GOLDEN["models"])


@functools.cache
def model(name):
    return read_sentencepiece(base64.b64decode(GOLDEN["models"][name]["file"]))


def assert_encodes_like_the_library(name):
    """The check of every encoder: the ids of all texts, and what they decode to."""
    golden = GOLDEN["models"][name]
    tokenizer = read_sentencepiece(base64.b64decode(golden["file"]))
    for text, ids, decoded in zip(GOLDEN["texts"], golden["ids"], golden["decoded"], strict=True):
        assert tokenizer.encode(text) == list(map(int, ids.split())), text
        assert tokenizer.decode(tokenizer.encode(text)) == (text if decoded is None else decoded), text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (golden["bos_token_id"], golden["eos_token_id"])


def by_hand(*texts, names=NAMES, bytes_=BYTES, **settings):
    """A tokenizer of a few pieces, of which each has a lower score than the one before."""
    return SentencePieceTokenizer([*names, *bytes_, *normal(*texts)], **settings)


def shown(tokenizer, text):
    return [tokenizer.pieces[token].text for token in tokenizer.encode(text)]


# ---- against sentencepiece

@pytest.mark.parametrize("name", MODELS)
def test_tokens_and_texts_are_those_of_the_library(name):
    assert_encodes_like_the_library(name)


@pytest.mark.parametrize("name", MODELS)
def test_live_tokens_and_texts_are_those_of_the_library(name, rng):
    library = pytest.importorskip("sentencepiece", reason="The library sentencepiece is not installed.")
    theirs = library.SentencePieceProcessor(model_proto=base64.b64decode(GOLDEN["models"][name]["file"]))
    ours = model(name)
    for text in varied_texts(rng, 3000):
        ids = ours.encode(text)
        assert ids == theirs.encode(text), text
        assert ours.decode(ids) == theirs.decode(ids), text


@pytest.mark.parametrize("name", MODELS)
def test_live_any_ids_decode_as_in_the_library(name, rng):
    """But for special tokens, which have a name here, and for half of a character."""
    library = pytest.importorskip("sentencepiece", reason="The library sentencepiece is not installed.")
    theirs = library.SentencePieceProcessor(model_proto=base64.b64decode(GOLDEN["models"][name]["file"]))
    ours = model(name)
    usable = [token for token, piece in enumerate(ours.pieces)
              if piece.kind != Kind.CONTROL and (piece.kind != Kind.BYTE or ours.token_bytes(token) < b"\x80")]
    for _ in range(2000):
        ids = rng.choice(usable, size=rng.integers(0, 8)).tolist()
        assert ours.decode(ids) == theirs.decode(ids)


def test_live_a_real_vocabulary_gives_the_tokens_of_the_library(rng):
    library = pytest.importorskip("sentencepiece", reason="The library sentencepiece is not installed.")
    package = importlib.util.find_spec("mistral_common")
    if package is None:
        pytest.skip("The package mistral-common, which holds Mistral's tokenizer.model.v1, is not installed.")
    file = Path(package.origin).parent / "data" / "tokenizer.model.v1"
    ours, theirs = tl.load_tokenizer(file), library.SentencePieceProcessor(model_file=str(file))
    assert (ours.vocab_size, ours.bos_token_id, ours.eos_token_id) == (32_000, 1, 2)
    for text in varied_texts(rng, 10_000):
        ids = ours.encode(text)
        assert ids == theirs.encode(text), text
        assert ours.decode(ids) == theirs.decode(ids), text


def test_live_small_vocabularies_full_of_ties_give_the_tokens_of_the_library(rng):
    library = pytest.importorskip("sentencepiece", reason="The library sentencepiece is not installed.")
    for _ in range(300):
        texts = {"a", "b", "▁", *("".join(rng.choice(list("ab▁"), size=rng.integers(2, 6))) for _ in range(7))}
        kinds = [Kind.UNUSED if len(text) > 1 and rng.random() < 0.4 else Kind.NORMAL for text in sorted(texts)]
        pieces = [Piece(*parts, -float(rng.integers(6))) for parts in zip(sorted(texts), kinds, strict=True)]
        data = model_file([*NAMES, *pieces])
        ours, theirs = read_sentencepiece(data), library.SentencePieceProcessor(model_proto=data)
        for _ in range(20):
            text = "".join(rng.choice(list("ab  "), size=rng.integers(0, 16)))
            assert ours.encode(text) == theirs.encode(text), (pieces, text)


# ---- the merges

def test_merging_is_that_of_taking_the_best_pair_again_and_again(rng):
    for _ in range(2000):
        texts = {"".join(rng.choice(list("ab▁"), size=rng.integers(1, 6))) for _ in range(12)}
        scores = {text: float(rng.integers(-4, 1)) for text in sorted(texts)}
        text = "".join(rng.choice(list("ab▁"), size=rng.integers(0, 20)))
        assert merge_by_score(text, scores) == brute_force.merge(text, scores)


def test_cutting_at_spaces_changes_nothing(rng):
    for _ in range(500):
        texts = {"".join(rng.choice(list("ab▁"), size=rng.integers(1, 5))) for _ in range(10)}
        tokenizer = by_hand(*sorted(texts, key=lambda _: rng.random()))
        scores = {piece.text: piece.score for piece in tokenizer.pieces if piece.kind == Kind.NORMAL}
        text = "".join(rng.choice(list("ab "), size=rng.integers(1, 20)))
        whole = brute_force.merge("▁" + text.replace(" ", "▁"), scores)
        expected = [token for piece in whole for token in
                    ([tokenizer._tokens[piece]] if piece in scores else [3 + byte for byte in piece.encode()])]
        assert tokenizer.encode(text) == expected


def test_a_list_of_merges_does_what_distinct_scores_do(rng):
    for _ in range(500):
        texts = {"a", "b", *("".join(rng.choice(list("ab"), size=rng.integers(2, 7))) for _ in range(8))}
        pieces = normal(*sorted(texts, key=lambda _: rng.random()))
        scores = {piece.text: piece.score for piece in pieces}
        ranks = {pair: (rank, "".join(pair)) for rank, pair in enumerate(ranked_pairs(pieces))}
        text = "".join(rng.choice(list("ab"), size=rng.integers(0, 20)))
        assert merge_by_rank(text, ranks) == brute_force.merge(text, scores)


def test_words_are_cut_only_where_no_piece_would_be():
    assert by_hand("▁a", "▁▁", "▁▁▁a")._may_cut
    assert not by_hand("▁a", "a▁")._may_cut
    assert shown(by_hand("a▁", "▁", "a"), "a a") == ["▁", "a▁", "a"]


def test_an_encoder_that_cuts_where_pieces_cross_is_rejected(monkeypatch):
    cuts = Spaces.words
    monkeypatch.setattr(Spaces, "words", lambda self, marked, may_cut: cuts(self, marked, True))
    assert_encodes_like_the_library("plain")
    with pytest.raises(AssertionError):
        assert_encodes_like_the_library("pieces across spaces")


def merging(best):
    return lambda text, scores, unused: brute_force.merge(text, scores, best)


WRONG = {
    "the lowest score first": merging(lambda score, place: (-score, -place)),
    "the rightmost of equal ones": merging(lambda score, place: (score, place)),
    "the leftmost pair": merging(lambda score, place: -place),
    "no merges": lambda text, scores, unused: list(text),
}


@pytest.mark.parametrize("rule", WRONG)
def test_an_encoder_that_merges_in_another_order_is_rejected(rule, monkeypatch):
    monkeypatch.setattr(sentencepiece, "merge_by_score", WRONG[rule])
    with pytest.raises(AssertionError):
        assert_encodes_like_the_library("plain")


@pytest.mark.parametrize(("name", "rules"), [
    ("plain", {"prefix": None}), ("plain", {"prefix": "missing"}), ("plain", {"remove_extra": True}),
    ("plain", {"drop_first": False}),
    ("no prefix, user-defined pieces", {"prefix": "always"}),
    ("no extra spaces, no bytes, user-defined pieces", {"remove_extra": False}),
])
def test_an_encoder_with_other_rules_for_spaces_is_rejected(name, rules, monkeypatch):
    monkeypatch.setattr("tinyllama.tokenizers.sentencepiece_model.Spaces", lambda *parts, **settings: Spaces(
        *parts, **settings)._replace(**rules))
    with pytest.raises(AssertionError):
        assert_encodes_like_the_library(name)


@pytest.mark.parametrize(("name", "method", "wrong"), [
    ("no extra spaces, no bytes, user-defined pieces", "_one_unknown_a_run", lambda self, tokens: tokens),
    ("no prefix, user-defined pieces", "user_defined", lambda self: []),
])
def test_an_encoder_without_one_of_the_rules_is_rejected(name, method, wrong, monkeypatch):
    monkeypatch.setattr(SentencePieceTokenizer, method, wrong)
    with pytest.raises(AssertionError):
        assert_encodes_like_the_library(name)


def test_an_encoder_that_uses_unused_pieces_is_rejected(monkeypatch):
    monkeypatch.setattr(sentencepiece, "merge_by_score", lambda text, scores, unused: merge_by_score(text, scores))
    with pytest.raises(AssertionError):
        assert_encodes_like_the_library("unused pieces")


def test_a_long_word_takes_no_longer_than_its_length_asks():
    tokenizer = model("plain")
    text = "a" * 100_000 + " " * 100_000 + "你好" * 20_000      # searched for one by one, it would take hours
    assert tokenizer.decode(tokenizer.encode(text)) == text


# ---- encode

def test_a_tokenizer_can_be_made_by_hand():
    tokenizer = by_hand("▁a", "ab", "▁", "a", "b", bos_token_id=1)
    assert tokenizer.encode("ab b", bos=True) == [1, 259, 263, 261, 263]
    assert shown(tokenizer, "bab") == ["▁", "b", "ab"]
    assert tokenizer.decode([1, 259, 263]) == "<s>ab"
    assert repr(tokenizer) == "<SentencePieceTokenizer of 264 tokens, 3 special, merged by score>"
    assert tokenizer.merges == [(0, b" ", b"a", b" a", None), (1, b"a", b"b", b"ab", None)]


def test_a_character_without_a_piece_becomes_its_bytes():
    assert shown(by_hand("▁a", "▁", "a"), "aé") == ["▁a", "<0xC3>", "<0xA9>"]


def test_without_bytes_a_run_of_unknown_characters_is_one_token():
    tokenizer = by_hand("▁a", "▁", "a", bytes_=[])
    assert tokenizer.encode("aéèaê") == [3, 0, 5, 0]
    assert tokenizer.decode([3, 0, 5, 0]) == "a ⁇ a ⁇ "


def test_ranks_count_where_they_are_given():
    pieces = ["▁", "a", "b", "ab", "▁a"]
    assert shown(by_hand(*pieces, merges=[("a", "b"), ("▁", "a")]), "ab") == ["▁", "ab"]
    assert shown(by_hand(*pieces, merges=[("▁", "a"), ("a", "b")]), "ab") == ["▁a", "b"]
    assert shown(by_hand(*pieces, merges=[]), "ab") == ["▁", "a", "b"]
    tokenizer = by_hand(*pieces, merges=[("a", "b")])
    assert tokenizer.merges == [(0, b"a", b"b", b"ab", None)]
    assert "merged by rank" in repr(tokenizer)


def test_whole_words_need_no_merges_where_that_is_asked_for():
    pieces = ["▁", "a", "b", "▁a", "▁abb"]
    assert shown(by_hand(*pieces, merges=[]), "abb") == ["▁", "a", "b", "b"]
    whole = by_hand(*pieces, merges=[], whole_words=True)
    assert shown(whole, "abb") == ["▁abb"]
    assert shown(whole, "abb a") == ["▁", "a", "b", "b", "▁", "a"]
    words = by_hand(*pieces, merges=[], whole_words=True, spaces=Spaces("missing", split=True))
    assert shown(words, "abb a") == ["▁abb", "▁a"]


def test_encode_gives_plain_integers_and_encode_to_array_the_same_in_an_array():
    for text in GOLDEN["texts"]:
        ids, array = model("plain").encode(text), model("plain").encode_to_array(text)
        assert {type(token) for token in ids} <= {int}
        assert array.dtype == np.int32
        assert array.tolist() == ids


def test_bos_comes_first_where_it_is_asked_for():
    tokenizer = model("plain")
    assert tokenizer.encode("be", bos=True) == [1, *tokenizer.encode("be")]
    with pytest.raises(ValueError, match="bos: expected False, got True; this tokenizer has no token that begins"):
        by_hand("a").encode("a", bos=True)


def test_the_name_of_a_special_token_is_text_unless_it_is_allowed_to_be_more():
    tokenizer = model("plain")
    text = "the end</s><s> <unk"
    safe = tokenizer.encode(text)
    assert not {0, 1, 2} & set(safe)
    assert tokenizer.decode(safe) == text
    special = tokenizer.encode(text, allow_special=True)
    assert special == [*tokenizer.encode("the end"), 2, 1, *tokenizer.encode(" <unk")]
    assert not {0, 1, 2} & set(tokenizer.encode_to_array(text).tolist())


def test_a_hidden_name_is_text_beside_one_that_is_not():
    tokenizer = model("plain")
    ids = tokenizer.encode_masked("<s>a\ue000s>", {0xE000: "<"})
    assert ids == [1, *tokenizer.encode("a<s>")]


def test_the_first_stretch_alone_gets_the_prefix_where_the_rules_say_so():
    special = [AddedToken("<s>", 1)]
    pieces = ["▁a", "▁", "a"]
    assert shown_special(by_hand(*pieces, added_tokens=special), "a<s>a") == ["▁a", "<s>", "▁a"]
    first = by_hand(*pieces, added_tokens=special, spaces=Spaces("first"))
    assert shown_special(first, "a<s>a") == ["▁a", "<s>", "a"]
    assert shown_special(first, "<s>a<s> a") == ["<s>", "a", "<s>", "▁a"]
    assert shown_special(first, " a") == ["▁a"]


def shown_special(tokenizer, text):
    return [tokenizer.pieces[token].text for token in tokenizer.encode(text, allow_special=True)]


def test_the_cache_changes_nothing_and_stays_small(monkeypatch):
    monkeypatch.setattr(SentencePieceTokenizer, "CACHED_WORDS", 5)
    small = read_sentencepiece(base64.b64decode(GOLDEN["models"]["plain"]["file"]))
    for text in [*GOLDEN["texts"], *GOLDEN["texts"]]:
        assert small.encode(text) == model("plain").encode(text)
        assert len(small._words) <= 5


def test_another_process_can_be_given_the_tokenizer():
    again = pickle.loads(pickle.dumps(by_hand("▁a", "▁", "a")))
    assert again.encode("a a") == [259, 259]


@pytest.mark.parametrize("call", ["encode", "encode_to_array"])
def test_what_is_no_text_is_refused_by_name(call):
    with pytest.raises(ValueError, match=r"text: position 2 holds a lone surrogate \(U\+D83E\)"):
        getattr(model("plain"), call)("ab\ud83e")
    with pytest.raises(TypeError, match="text: expected a str, got bytes"):
        getattr(model("plain"), call)(b"ab")


# ---- decode

@pytest.mark.parametrize("name", MODELS)
def test_the_bytes_of_the_tokens_are_the_text_but_for_the_first_space(name):
    tokenizer = model(name)
    for text in GOLDEN["texts"]:
        ids = tokenizer.encode(text)
        joined = b"".join(map(tokenizer.token_bytes, ids))
        if tokenizer.spaces.drop_first:
            joined = joined.lstrip(b" ") if tokenizer.spaces.remove_extra else joined.removeprefix(b" ")
        if not (ids and ids[0] == tokenizer._unknown):
            assert joined == tokenizer.decode_bytes(ids) == tokenizer.decode(ids).encode(), text


@pytest.mark.parametrize("form", [
    list, tuple, iter, np.array, lambda ids: [np.int64(i) for i in ids], lambda ids: (i for i in ids),
    lambda ids: np.array(ids, dtype=np.uint16),
])
def test_whatever_holds_the_ids_decode_gives_the_text(form):
    ids = model("plain").encode("the cat 你好")
    assert model("plain").decode(form(ids)) == "the cat 你好"
    assert model("plain").decode_bytes(form(ids)) == "the cat 你好".encode()


def test_nothing_and_a_single_token():
    tokenizer = model("plain")
    assert tokenizer.encode("") == []
    assert tokenizer.encode_to_array("").shape == (0,)
    assert (tokenizer.decode([]), tokenizer.decode_bytes([])) == ("", b"")
    assert tokenizer.decode(3 + ord("!")) == "!"


def test_special_tokens_have_a_name_and_no_bytes():
    tokenizer = by_hand("▁a", "▁", "a")
    assert tokenizer.decode([1, 259, 259, 2]) == "<s>a a</s>"
    assert tokenizer.decode_bytes([1, 259, 259, 2]) == b"a a"
    assert [tokenizer.token_bytes(token) for token in (1, 2, 0, 259)] == [b"", b"", " ⁇ ".encode(), b" a"]


def test_half_a_character_is_shown_as_such_or_refused():
    tokenizer = model("plain")
    half = [*tokenizer.encode("a"), 3 + 0xE4, 3 + 0xBD]
    assert tokenizer.decode(half) == "a\ufffd"
    assert tokenizer.decode(half, errors="ignore") == "a"
    with pytest.raises(UnicodeDecodeError):
        tokenizer.decode(half, errors="strict")
    with pytest.raises(LookupError, match="no_such_handler"):
        tokenizer.decode([], errors="no_such_handler")


@pytest.mark.parametrize("decode", ["decode", "decode_bytes"])
@pytest.mark.parametrize(("ids", "message"), [
    ([0, 262], "ids: position 1 holds 262, expected 0 to 261, since the vocabulary has 262 tokens"),
    ([-1], "ids: position 0 holds -1"),
    ([0.5], "ids: expected integers, got float64"),
])
def test_ids_that_are_no_tokens_are_refused(decode, ids, message):
    with pytest.raises(ValueError, match=message):
        getattr(by_hand("▁a", "▁", "a"), decode)(ids)


@pytest.mark.parametrize("token", [-1, 262, 1.0, None])
def test_a_token_that_is_none_is_refused(token):
    with pytest.raises(ValueError, match="token: expected an integer from 0 to 261, got"):
        by_hand("▁a", "▁", "a").token_bytes(token)


# ---- parts that do not fit together

@pytest.mark.parametrize(("pieces", "settings", "message"), [
    ([*NAMES, *normal("a", "a")], {}, "pieces: expected distinct texts, got 'a' 2 times"),
    ([*NAMES, *normal("")], {}, "pieces: expected texts of at least one character, got ''"),
    ([*NAMES, *normal(" a")], {}, "pieces: expected ▁ where a piece has a space, got ' a'"),
    ([*NAMES, Piece("a", Kind.NORMAL, float("nan"))], {}, "pieces: expected finite scores, got nan for 'a'"),
    (normal("a"), {}, "expected one unknown piece, or none and a piece for every byte, got 0 unknown pieces and 0"),
    ([*NAMES, Piece("?", Kind.UNKNOWN)], {}, "expected one unknown piece, .* got 2 unknown pieces"),
    ([*NAMES, *BYTES[1:]], {}, "pieces: expected none of bytes, or one for each of the 256, got 255"),
    ([*NAMES, *BYTES[1:], Piece("<0x0a>", Kind.BYTE)], {}, "a byte to be spelled like <0x0A>, got '<0x0a>'"),
    ([*NAMES, *normal("a")], {"bos_token_id": 3}, "bos_token_id: expected None or one of the special tokens .* got 3"),
    ([*NAMES, *normal("a")], {"eos_token_id": "</s>"}, "eos_token_id: expected None or one of .* got '</s>'"),
    ([*NAMES, *normal("a")], {"merges": [("a", "b")]}, "merges: expected normal pieces, got 'b' in 'a' 'b'"),
    ([*NAMES, *normal("a")], {"merges": [("a", "a")]}, "merges: expected normal pieces, got 'aa' in 'a' 'a'"),
    ([*NAMES, *normal("a", "aa")], {"merges": [("a", "a")] * 2}, "merges: expected 2 distinct pairs, got 1"),
    (NAMES, {"added_tokens": [AddedToken("<s>", 2)]}, "added_tokens: expected the token of a piece and its text, got"),
    (NAMES, {"added_tokens": [AddedToken("<s>", 7)]}, "added_tokens: expected the token of a piece and its text, got"),
    (NAMES, {"spaces": Spaces("often")}, "spaces: expected a prefix among .* got 'often'"),
    (NAMES, {"spaces": Spaces("always", split=True)}, "spaces: expected split without the prefix"),
    (NAMES, {"spaces": Spaces("first", remove_extra=True)}, "spaces: expected split without the prefix"),
    (NAMES, {"spaces": Spaces(None, remove_extra=True, split=True)}, "spaces: expected split without the prefix"),
    (NAMES, {"added_tokens": [AddedToken("<s>", 1)] * 2}, "added_tokens: expected distinct tokens"),
])
def test_parts_that_do_not_fit_together_are_refused(pieces, settings, message):
    with pytest.raises(ValueError, match=message):
        SentencePieceTokenizer(pieces, **settings)
