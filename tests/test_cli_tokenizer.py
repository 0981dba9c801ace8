"""`tinyllama tokenizer` as a user types it."""

import functools
import json
import os
import subprocess
import sys

import pytest
from command_line import assert_is_a_mistake as assert_is_one_line
from command_line import command_line

from tinyllama.tokenizers import CharacterTokenizer, load_tokenizer, train_tokenizer

TEXT = "the cat sat on the mat. Ça va? 你好\n" * 20


@pytest.fixture
def tinyllama(monkeypatch, capsys, tmp_path):
    """`tinyllama("encode", "t.json", "text")` runs that in the directory of the test, which holds text.txt, t.json."""
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    train_tokenizer(TEXT, 270).save(tmp_path / "t.json")
    return functools.partial(command_line(monkeypatch, capsys, tmp_path), "tokenizer")


@pytest.fixture
def tokenizer(tinyllama, tmp_path):
    return load_tokenizer(tmp_path / "t.json")


def assert_is_a_mistake(result, message):
    """One line on standard error, and nothing on standard output that somebody could take for a result."""
    assert_is_one_line(result, message)
    assert result.out == ""


# ---- help

def test_help_lists_the_commands_and_loads_nothing_heavy():
    code = ("import sys; sys.argv = ['tinyllama', 'tokenizer', '--help']\n"
            "from tinyllama import cli\n"
            "try:\n    cli.main()\n"
            "finally:\n    print({'numpy', 'regex', 'matplotlib'} & set(sys.modules))\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=100)
    assert done.returncode == 0, done
    for command in ("train", "encode", "decode", "inspect"):
        assert command in done.stdout
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize(("command", "options"), [
    ("train", ["--out", "--data", "--vocab-size", "--json"]),
    ("encode", ["FILE", "text", "--pieces", "--json"]),
    ("decode", ["FILE", "ids", "--json"]),
    ("inspect", ["FILE", "--limit", "--data", "--json"]),
])
def test_the_help_of_a_command_shows_its_options(command, options, tinyllama):
    result = tinyllama(command, "--help")
    assert (result.code, result.err) == (0, "")
    assert [option for option in options if option not in result.out] == []
    described = [line for line in result.out.splitlines() if line.lstrip("│ *").startswith("--")]
    assert len(described) == sum(option.startswith("--") for option in options) + 1      # and --help


# ---- train

def test_train_saves_the_tokenizer_of_the_text(tinyllama, tmp_path):
    result = tinyllama("train", "--data", "text.txt", "--vocab-size", 270, "--out", "new/mine.json")
    assert (result.code, result.err) == (0, "")
    assert f"12 merges learned from {len(TEXT)} characters" in result.out
    assert load_tokenizer(tmp_path / "new" / "mine.json").merges == train_tokenizer(TEXT, 270).merges


def test_train_into_a_directory_as_json(tinyllama, tmp_path):
    (tmp_path / "folder").mkdir()
    result = tinyllama("train", "--data", "text.txt", "--vocab-size", 270, "--out", "folder", "--json")
    facts = json.loads(result.out)
    tokenizer = load_tokenizer(tmp_path / "folder")
    assert facts == {"file": str((tmp_path / "folder" / "tokenizer.json").relative_to(tmp_path)), "vocab_size": 270,
                     "merges": 12, "bytes_per_token": len(TEXT.encode()) / len(tokenizer.encode(TEXT))}


@pytest.mark.parametrize(("arguments", "message"), [
    (["--data", "nowhere.txt"], "nowhere.txt: expected a UTF-8 text file"),
    (["--vocab-size", "100"], "vocab_size: expected at least 258, for 256 bytes and 2 special tokens, got 100"),
    (["--vocab-size", "4096"], "vocab_size: expected at most"),
    (["--out", "t.json"], "out: expected a path without a tokenizer, but t.json exists"),
    (["--out", ""], "Invalid value for '--out': expected a path, got an empty text"),
    (["--out", os.path.join("text.txt", "new.json"), "--vocab-size", "270"], "text.txt"),
])
def test_train_refuses_what_cannot_be(arguments, message, tinyllama, tmp_path):
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert_is_a_mistake(tinyllama("train", "--data", "text.txt", "--out", "new.json", *arguments), message)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_train_needs_to_be_told_where_to_save(tinyllama):
    result = tinyllama("train", "--data", "text.txt")
    assert result.code == 2
    assert "Missing option '--out'" in result.err


# ---- encode and decode

def test_encode_prints_the_tokens_of_a_text(tinyllama, tokenizer):
    ids = tokenizer.encode("the cat, 你好")
    assert tinyllama("encode", "t.json", "the cat, 你好") == (0, " ".join(map(str, ids)) + "\n", "")
    assert tinyllama("encode", "t.json", standard_input="the cat, 你好".encode()).out.split() == list(map(str, ids))
    assert json.loads(tinyllama("encode", "t.json", "the cat, 你好", "--json").out) == {"ids": ids}


def test_encode_shows_what_each_token_stands_for(tinyllama, tokenizer):
    ids = tokenizer.encode("the é.")
    lines = tinyllama("encode", "t.json", "the é.", "--pieces").out.splitlines()
    assert [line.split(maxsplit=1) for line in lines] == [
        [str(token), piece] for token, piece in zip(ids, ["'the'", "' '", r"b'\xc3'", r"b'\xa9'", "'.'"], strict=True)]
    shown = json.loads(tinyllama("encode", "t.json", "the é.", "--pieces", "--json").out)
    assert shown == {"ids": ids, "pieces": ["'the'", "' '", r"b'\xc3'", r"b'\xa9'", "'.'"]}


def test_decode_gives_the_text_back(tinyllama, tokenizer):
    ids = tokenizer.encode("the cat, 你好")
    assert tinyllama("decode", "t.json", *ids) == (0, "the cat, 你好\n", "")
    assert tinyllama("decode", "t.json", standard_input=" ".join(map(str, ids)).encode()).out == "the cat, 你好\n"
    assert json.loads(tinyllama("decode", "t.json", *ids, "--json").out) == {"text": "the cat, 你好"}
    assert tinyllama("decode", "t.json").out == "\n"


def test_a_text_goes_through_both_as_it_is(tinyllama):
    text = "  \tthe\n\nmat 🦙\n"
    ids = tinyllama("encode", "t.json", standard_input=text.encode()).out
    assert tinyllama("decode", "t.json", standard_input=ids.encode()).out == text + "\n"


@pytest.mark.parametrize(("arguments", "standard_input", "message"), [
    (["encode", "nowhere.json", "a"], b"", "nowhere.json: expected a tokenizer's file or a directory"),
    (["encode", "text.txt", "a"], b"", "text.txt: expected a tokenizer saved as JSON"),
    (["encode", "t.json"], b"caf\xe9", "standard input: expected text in UTF-8, got byte 0xe9 at offset 3"),
    (["decode", "t.json", "270"], b"", "ids: position 0 holds 270, expected 0 to 269"),
    (["decode", "t.json"], b"1 2 x", "ids: expected whole numbers with spaces between them, got 'x'"),
    (["encode", "", "a"], b"", "expected a path, got an empty text"),
    (["inspect", "t.json", "--limit", "-1"], b"", "limit: expected at least 0, got -1"),
    (["inspect", "t.json", "--data", "nowhere.txt"], b"", "nowhere.txt: expected a UTF-8 text file"),
])
def test_what_cannot_be_is_one_line_and_exit_code_2(arguments, standard_input, message, tinyllama):
    assert_is_a_mistake(tinyllama(*arguments, standard_input=standard_input), message)


# ---- inspect

def test_inspect_shows_the_merges_with_their_counts_and_a_summary(tinyllama, tokenizer):
    result = tinyllama("inspect", "t.json", "--limit", 3, "--data", "text.txt")
    assert (result.code, result.err) == (0, "")
    rows = [line.split() for line in result.out.splitlines() if line.strip()[:1].isdigit()]
    assert [(row[0], row[1], row[-1].strip("'")) for row in rows] == [
        (str(merge.rank), str(merge.count), merge.merged.decode().strip()) for merge in tokenizer.merges[:3]]
    assert "270 tokens, 12 of them merges" in result.out
    assert "<|begin_of_text|> (0), <|end_of_text|> (1)" in result.out
    assert "bytes a token" in result.out
    assert "unknown" not in result.out


def test_inspect_shows_a_piece_of_brackets_as_it_is(tinyllama, tmp_path):
    train_tokenizer("a[/] a[/] \\\\[ \\\\[ [bold] [[a]]", 266).save(tmp_path / "brackets.json")
    out = tinyllama("inspect", "brackets.json").out
    merges = load_tokenizer(tmp_path / "brackets.json").merges
    assert {rb"\\[", b"[/]"} <= {merge.merged for merge in merges}
    assert all(repr(merge.merged.decode()) in out for merge in merges)


def test_inspect_as_json(tinyllama, tokenizer):
    facts = json.loads(tinyllama("inspect", "t.json", "--limit", 2, "--json").out)
    first = tokenizer.merges[0]
    longest = max((tokenizer.token_bytes(token) for token in range(270)), key=len)
    shown = {name: repr(getattr(first, name).decode()) for name in ("left", "right", "merged")}
    assert facts["first_merges"][0] == {"rank": 0, **shown, "count": first.count}
    assert facts["longest_pieces"][0] == repr(longest.decode())
    assert [len(facts["first_merges"]), len(facts["longest_pieces"])] == [2, 2]
    del facts["first_merges"], facts["longest_pieces"]
    assert facts == {"vocab_size": 270, "special_tokens": {"<|begin_of_text|>": 0, "<|end_of_text|>": 1},
                     "bos_token_id": 0, "eos_token_id": 1, "merges": 12, "bytes_per_token": None}


def test_inspect_says_that_the_counts_of_a_foreign_file_are_unknown(tinyllama, tmp_path):
    document = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    del document["model"]["tinyllama"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    out = tinyllama("inspect", ".", "--limit", 2).out
    assert out.count(" unknown ") == 2
    assert "The counts are unknown" in out
    assert json.loads(tinyllama("inspect", ".", "--json").out)["first_merges"][0]["count"] is None


def test_a_character_tokenizer_can_be_looked_at_too(tinyllama, tmp_path):
    CharacterTokenizer.train(TEXT).save(tmp_path / "characters.json")
    result = tinyllama("inspect", "characters.json", "--data", "text.txt")
    assert (result.code, result.err) == (0, "")
    assert "0 of them merges" in result.out
    assert "special tokens   none" in result.out
    assert tinyllama("encode", "characters.json", "你", "--pieces").out.split()[1] == "'你'"
