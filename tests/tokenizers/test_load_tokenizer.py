import json

import pytest

import tinyllama as tl
from tinyllama.tokenizers import CharacterTokenizer, load_tokenizer

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
    with pytest.raises(FileNotFoundError, match=r"holds tokenizer.json, got a directory without it"):
        load(tmp_path)


@pytest.mark.parametrize("load", LOADERS)
def test_a_file_cut_short_anywhere_is_refused(load, saved):
    whole = saved.read_bytes().rstrip()
    for size in range(len(whole)):
        saved.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"tokenizer\.json: expected a tokenizer saved as JSON, got"):
            load(saved)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(("content", "message"), [
    (b"once upon a time", "saved as JSON, got a file that is not"),
    (b"\x00\xff\xfe\x80", "saved as JSON, got a file that is not"),
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
