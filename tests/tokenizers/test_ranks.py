"""Ranks in tiktoken's format: the tokens are tiktoken's, whatever the order of the pieces."""

import base64
import itertools
import json
from pathlib import Path

import byte_level_cases as cases
import pytest

import tinyllama as tl
from tinyllama.tokenizers import ranks
from tinyllama.tokenizers.ranks import LLAMA3_SPECIAL_TOKENS, merges_of_ranks, read_ranks

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "byte_level.json").read_text(encoding="utf-8"))
BYTES = [bytes([byte]) for byte in range(256)]


def written(pieces, path):
    path.write_bytes(b"".join(base64.b64encode(piece) + b" %d\n" % rank for rank, piece in enumerate(pieces)))
    return path


@pytest.fixture
def golden_file(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_text(GOLDEN["ranks"]["file"], encoding="utf-8")
    return path


def assert_golden(path):
    ours = tl.load_tokenizer(path)
    for text, ids, safe in zip(GOLDEN["texts"], GOLDEN["ranks"]["ids"], GOLDEN["ranks"]["safe"], strict=True):
        assert ours.encode(text, allow_special=True) == ids, ascii(text)
        assert ours.encode(text) == safe, ascii(text)


def test_the_ids_are_those_of_the_golden_file(golden_file):
    assert_golden(golden_file)


def test_a_directory_with_ranks_in_its_tokenizer_model_is_one_of_them(golden_file):
    assert_golden(golden_file.parent)


def test_the_special_tokens_are_those_of_llama_3(golden_file):
    tokenizer = tl.load_tokenizer(golden_file)
    size = GOLDEN["ranks"]["file"].count("\n")
    assert len(tokenizer.special_tokens) == len(LLAMA3_SPECIAL_TOKENS) == 256
    assert tokenizer.vocab_size == size + 256
    ids = {name: token - size for name, token in tokenizer.special_tokens.items()}
    assert [ids[f"<|{name}|>"] for name in (
        "begin_of_text", "end_of_text", "reserved_special_token_3", "start_header_id", "end_header_id",
        "reserved_special_token_4", "eot_id", "reserved_special_token_5", "reserved_special_token_250")] \
        == [0, 1, 5, 6, 7, 8, 9, 10, 255]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.adds_bos) == (size, size + 1, True)


def shuffled(pieces, rng):
    """The same pieces, of which the longer ones may come before the parts that they are made of."""
    longer = [pieces[256:][i] for i in rng.permutation(len(pieces) - 256)]
    return pieces[:256] + longer


def full_of_ties(rng):
    """Pieces of two letters, many of which can be made in several ways, some of which in none."""
    words = ["".join(word) for size in (2, 3, 4, 5) for word in itertools.product("ab", repeat=size)]
    return BYTES + [words[i].encode() for i in rng.permutation(len(words))[:25]]


@pytest.mark.parametrize("order", ["as trained", "shuffled"])
def test_live_ten_thousand_texts_have_the_tokens_of_tiktoken(order, rng, golden_file):
    pytest.importorskip("tiktoken", reason="The library tiktoken is not installed.")
    pieces = tl.load_tokenizer(golden_file).vocabulary[:-256]
    pieces = pieces if order == "as trained" else shuffled(pieces, rng)
    ours = tl.load_tokenizer(written(pieces, golden_file))
    theirs = tiktoken_of(pieces)
    for text in cases.texts(rng, 10_000):
        assert ours.encode(text) == theirs.encode(text, disallowed_special=()), ascii(text)
        assert ours.encode(text, allow_special=True) == theirs.encode(text, allowed_special="all"), ascii(text)


def tiktoken_of(pieces):
    import tiktoken
    return tiktoken.Encoding(
        "test", pat_str=cases.LLAMA3_PATTERN, mergeable_ranks={piece: rank for rank, piece in enumerate(pieces)},
        special_tokens={name: len(pieces) + i for i, name in enumerate(LLAMA3_SPECIAL_TOKENS)})


def joining_the_lowest_rank(word, table):
    """What tiktoken does, by its definition."""
    parts = [word[at:at + 1] for at in range(len(word))]
    while True:
        found = [(table[left + right], at) for at, (left, right) in enumerate(itertools.pairwise(parts))
                 if left + right in table]
        if not found:
            return parts
        _, at = min(found)
        parts[at:at + 2] = [parts[at] + parts[at + 1]]


def assert_merges_like_the_ranks(pieces):
    """All words of up to eight letters, merged by the merges that were found and by the definition."""
    merges = {(left, right): (rank, left + right) for rank, (left, right) in enumerate(ranks.merges_of_ranks(pieces))}
    table = {piece: rank for rank, piece in enumerate(pieces)}
    for size in range(1, 9):
        for letters in itertools.product((b"a", b"b"), repeat=size):
            assert ranks.merge_by_rank(list(letters), merges) == joining_the_lowest_rank(b"".join(letters), table)


def test_one_merge_a_piece_is_enough_however_the_ranks_lie(rng):
    for _ in range(60):
        assert_merges_like_the_ranks(full_of_ties(rng))


def every_split(pieces):
    """All the ways to make a piece, by the ranks of their parts."""
    table = {piece: rank for rank, piece in enumerate(pieces)}
    found = [(table[piece], table[piece[:at]], table[piece[at:]]) for piece in pieces for at in range(1, len(piece))
             if piece[:at] in table and piece[at:] in table]
    return [(pieces[left], pieces[right]) for _, left, right in sorted(found)]


def first_split(pieces):
    return list({left + right: (left, right) for left, right in reversed(every_split(pieces))}.values())[::-1]


def by_their_parts(pieces):
    """The right merges, those of low parts first."""
    return sorted(merges_of_ranks(pieces), key=lambda merge: tuple(map(pieces.index, merge)))


@pytest.mark.parametrize("wrong", [first_split, by_their_parts])
def test_merges_that_are_not_the_last_ones_are_rejected(wrong, monkeypatch, rng):
    monkeypatch.setattr(ranks, "merges_of_ranks", wrong)
    with pytest.raises(AssertionError):
        for _ in range(60):
            assert_merges_like_the_ranks(full_of_ties(rng))


def test_a_piece_that_no_merge_makes_is_a_token_of_its_word_only(tmp_path):
    tokenizer = read_ranks(written([*BYTES, b"abc"], tmp_path / "t"), special_tokens=(), bos_token=None, eos_token=None)
    assert merges_of_ranks([*BYTES, b"abc"]) == []
    assert tokenizer.encode("abc abcd") == [256, 32, 97, 98, 99, 100]


def test_live_what_is_saved_gives_the_library_the_same_ids(golden_file, tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason="The library tokenizers is not installed.")
    ours = tl.load_tokenizer(golden_file)
    ours.save(tmp_path / "saved.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "saved.json"))
    again = tl.load_tokenizer(tmp_path / "saved.json")
    assert (again.bos_token_id, again.adds_bos, again.whole_words) == (ours.bos_token_id, True, True)
    for text, ids in zip(GOLDEN["texts"], GOLDEN["ranks"]["ids"], strict=True):
        assert theirs.encode(text).ids == [ours.bos_token_id, *ids] == again.encode(text, bos=True, allow_special=True)


# ---- what is refused

GOOD = [base64.b64encode(piece) + b" %d" % rank for rank, piece in enumerate(BYTES)]


@pytest.mark.parametrize(("lines", "message"), [
    ([b"IQ== 0"], "expected all 256 bytes among the pieces, got none for b'.x00'"),
    ([*GOOD, b"YWI= 257"], "expected the ranks from 0 on, each once, got 257 of them, the highest 257"),
    ([*GOOD, b"YWI= 255"], "line 257: expected distinct ranks, got 255 more than once"),
    ([*GOOD, b"YQ== 256"], "vocabulary: expected distinct pieces, got b'a' more than once"),
    ([*GOOD, b"YWI 256"], 'line 257: expected "base64 rank", got'),
    ([*GOOD, b"YWI="], 'line 257: expected "base64 rank", got'),
    ([*GOOD, b"YWI= -1"], 'line 257: expected "base64 rank", got'),
    ([*GOOD, b"YWI= 256 1"], 'line 257: expected "base64 rank", got'),
    ([*GOOD, b" 256"], 'line 257: expected "base64 rank", got'),
    ([*GOOD, b"YWI= " + b"9" * 5000], 'line 257: expected "base64 rank", got'),
    ([*GOOD, base64.b64encode(b"a" * 1025) + b" 256"], "line 257: expected a piece of at most 1024 bytes, got 1025"),
])
def test_a_bad_file_is_refused_by_name(lines, message, tmp_path):
    file = tmp_path / "tokenizer.model"
    file.write_bytes(b"\n".join(lines))
    with pytest.raises(ValueError, match=message) as error:
        read_ranks(file)
    assert str(error.value).startswith(f"{file}: ")


def test_a_mutated_file_is_refused_or_read_but_breaks_nothing(tmp_path, rng):
    data = written([*BYTES, b"ab", b"abc", b"aa"], tmp_path / "t").read_bytes()
    outcomes = set()
    for _ in range(500):
        broken = bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            broken[int(rng.integers(len(broken)))] = int(rng.integers(256))
        (tmp_path / "t").write_bytes(bytes(broken[:int(rng.integers(len(data) // 2, len(data)))]))
        try:
            read_ranks(tmp_path / "t").encode("abc aaa")
            outcomes.add("read")
        except ValueError:
            outcomes.add("refused")
    assert "refused" in outcomes
