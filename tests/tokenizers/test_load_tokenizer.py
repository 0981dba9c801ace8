import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from sentencepiece_files import BYTES, NAMES, llama2c_file, llama2c_pieces, model_file, normal

import tinyllama as tl
from tinyllama.tokenizers import (
    BytePairTokenizer,
    CharacterTokenizer,
    SentencePieceTokenizer,
    load_tokenizer,
    loading,
    sentencepiece_json,
)

GOLDEN = Path(__file__).parents[1] / "golden"

LOADERS = [load_tokenizer, CharacterTokenizer.load]


@pytest.fixture
def saved(tmp_path):
    CharacterTokenizer("abc é你").save(tmp_path)
    return tmp_path / "tokenizer.json"


def test_it_loads_the_file_or_the_directory_that_holds_it(saved):
    for path in (saved, str(saved), saved.parent, str(saved.parent)):
        tokenizer = load_tokenizer(path)
        assert isinstance(tokenizer, CharacterTokenizer)
        assert tokenizer.characters == "abc é你"


def test_it_is_a_public_name():
    assert tl.load_tokenizer is load_tokenizer


def test_a_byte_order_mark_does_no_harm(saved):
    saved.write_bytes(b"\xef\xbb\xbf" + saved.read_bytes())
    assert load_tokenizer(saved).characters == "abc é你"


@pytest.mark.parametrize("load", LOADERS)
def test_a_missing_file_is_said_to_be_missing(load, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: expected a tokenizer's file or a directory .* nothing is"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds tokenizer\.json.*, got a directory without it"):
        load(tmp_path)


@pytest.mark.parametrize("load", LOADERS)
def test_a_file_cut_short_anywhere_is_refused(load, saved):
    whole = saved.read_bytes().rstrip()
    for size in range(len(whole)):
        saved.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"tokenizer\.json: expected a tokenizer saved as JSON.*, got"):
            load(saved)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(("content", "message"), [
    (b"once upon a time", r"saved as JSON.*, got a file that (is not|begins with b'once upon a time')"),
    (b"\x00\xff\xfe\x80", "saved as JSON.*, got a file that (is not|begins with b'.x00.xff.xfe.x80')"),
    (b"", "saved as JSON.*, got (a file that is not|an empty file)"),
    (b"[1, 2]", r"expected a JSON object, got JSON of another kind: \[1, 2\]"),
    (b"{}", "got a JSON object with nothing in it"),
    (b'{"version": "1.0", "words": {}}', 'with a "type" or a "model", got .* "version", "words"'),
    ({"type": "words"}, "expected \"type\" to be 'characters', got 'words'"),
    ({"type": ["characters"]}, r"expected \"type\" to be 'characters', got \['characters'\]"),
    ({"type": "characters", "version": 2, "characters": "ab"}, 'expected "version" to be 1, got 2'),
    ({"type": "characters", "characters": "ab"}, 'expected "version" to be 1, got None'),
    ({"type": "characters", "version": 1}, 'expected "characters" to be a string, got None'),
    ({"type": "characters", "version": 1, "characters": ["a"]}, r"to be a string, got \['a'\]"),
    ({"type": "characters", "version": 1, "characters": ""}, "tokenizer.json: characters: expected at least one"),
    ({"type": "characters", "version": 1, "characters": "aa"}, "expected distinct characters, got 'a'"),
    ({"type": "characters", "version": 1, "characters": "\ud800"}, "lone surrogate"),
])
def test_another_file_is_refused_with_what_was_expected(load, saved, content, message):
    saved.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(ValueError, match=message):
        load(saved)


# ---- every format, by what is in the file

PIECES = normal("▁a", "ab", "▁", "a", "b")
FILES = {
    "characters": json.dumps({"type": "characters", "version": 1, "characters": "abc"}).encode(),
    "byte-level JSON": json.dumps({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
                                   "pre_tokenizer": {"type": "ByteLevel"}, "decoder": {"type": "ByteLevel"}}).encode(),
    "JSON with byte fallback": json.dumps(json.loads(
        (GOLDEN / "sentencepiece.json").read_text(encoding="utf-8"))["json"]["document"]).encode(),
    "tokenizer.model": model_file([*NAMES, *BYTES, *PIECES]),
    "tokenizer.bin": llama2c_file(llama2c_pieces(" a", "ab", " ", "a", "b")),
}
KINDS = {"characters": CharacterTokenizer, "byte-level JSON": BytePairTokenizer}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("called", ["tokenizer.json", "tokenizer.model", "anything"])
def test_a_file_is_what_it_holds_and_not_what_it_is_called(name, called, tmp_path):
    (tmp_path / called).write_bytes(FILES[name])
    tokenizer = load_tokenizer(tmp_path / called)
    assert type(tokenizer) is KINDS.get(name, SentencePieceTokenizer)
    assert tokenizer.decode(tokenizer.encode("ab")) == "ab"
    if called != "anything":
        assert load_tokenizer(tmp_path).vocab_size == tokenizer.vocab_size


def test_of_two_files_in_a_directory_the_json_counts(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(FILES["tokenizer.model"])
    CharacterTokenizer("ab").save(tmp_path)
    assert isinstance(load_tokenizer(tmp_path), CharacterTokenizer)


def test_a_file_that_is_too_large_for_a_tokenizer_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "LARGEST", 100)
    (tmp_path / "t").write_bytes(FILES["tokenizer.model"])
    with pytest.raises(ValueError, match=r"t: expected a tokenizer of at most 100 bytes, got \d,\d+"):
        load_tokenizer(tmp_path / "t")


def mutated(data, rng):
    """The file with bytes changed, taken out, put in, or cut off: a few, so that most of it still makes sense."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at, what = int(rng.integers(len(data))), rng.integers(5)
        if what == 0:
            data[at] = rng.integers(256)
        elif what == 1:
            data[at:at + int(rng.integers(1, 9))] = b""
        elif what == 2:
            data[at:at] = rng.integers(0, 256, size=rng.integers(1, 9), dtype=np.uint8).tobytes()
        elif what == 3:
            data[at:at + 4] = rng.choice([b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\x00" * 4, b"\x80" * 4])
        elif len(data) > 20:
            del data[at:]
        if not data:
            return bytes(data)
    return bytes(data)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_refused_or_is_a_tokenizer(name, tmp_path, rng):
    """A thousand files a format: one ValueError that names the file, or a tokenizer that works; never much memory."""
    refused, number = 0, 1000 if len(FILES[name]) < 10_000 else 200
    tracemalloc.start()
    for _ in range(number):
        (tmp_path / "t").write_bytes(mutated(FILES[name], rng))
        try:
            tokenizer = load_tokenizer(tmp_path / "t")
        except ValueError as error:
            assert str(error).startswith(str(tmp_path / "t"))
            refused += 1
        else:
            assert isinstance(tokenizer.decode(list(range(tokenizer.vocab_size))[-40:]), str)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused > number // 5
    assert peak < 20_000_000


STRANGE = [None, True, 0, -1, 7, 1.5, float("nan"), 10**30, "", "x", "▁", [], [[]], [1], ["a"], {}, {"type": "BPE"}]


def replaced(value, rng):
    """The JSON value with something else in one place of it, deep inside or not."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return STRANGE[rng.integers(len(STRANGE))]
    value = value.copy()
    key = rng.choice(list(value)) if isinstance(value, dict) else int(rng.integers(len(value)))
    value[key] = replaced(value[key], rng)
    return value


def saved_by_us():
    tokenizer = SentencePieceTokenizer([*NAMES, *BYTES, *PIECES], bos_token_id=1, merges=[("a", "b")])
    return sentencepiece_json.to_document(tokenizer)


@pytest.mark.parametrize("document", [
    pytest.param(json.loads(FILES["JSON with byte fallback"]), id="theirs"), pytest.param(saved_by_us(), id="ours"),
    pytest.param(json.loads(FILES["byte-level JSON"]), id="byte-level"),
])
def test_a_document_with_strange_values_is_refused_or_is_a_tokenizer(document, tmp_path, rng):
    refused = 0
    for _ in range(1000):
        (tmp_path / "t").write_text(json.dumps(replaced(document, rng)), encoding="utf-8")
        try:
            tokenizer = load_tokenizer(tmp_path / "t")
        except ValueError as error:
            assert str(error).startswith(str(tmp_path / "t"))
            refused += 1
        else:
            assert isinstance(tokenizer.decode(list(range(tokenizer.vocab_size))[-40:]), str)
    assert refused > 200
