from pathlib import Path

import pytest

from tinyllama.data import read_text
from tinyllama.tokenizers import CharacterTokenizer

TINY_SHAKESPEARE = Path(__file__).parents[3] / "shared" / "data" / "tinyshakespeare.txt"


@pytest.mark.parametrize(("content", "text"), [
    (b"one\ntwo\n", "one\ntwo\n"),
    (b"one\r\ntwo\rthree\n\r\n", "one\ntwo\nthree\n\n"),
    (b"\xef\xbb\xbfone", "one"),
    ("llama 🦙 é 你".encode(), "llama 🦙 é 你"),
])
def test_it_reads_utf8_with_any_newlines(content, text, tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    assert read_text(path) == text
    assert read_text(str(path)) == text


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(content, tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"text\.txt: expected a UTF-8 text file, got an empty one"):
        read_text(path)


@pytest.mark.parametrize(("content", "message"), [
    ("café".encode("latin-1"), "got byte 0xe9 at offset 3,"),
    (b"\xef\xbb\xbfone\xff", "got byte 0xff at offset 6,"),        # the mark's three bytes count
    ("one".encode("utf-16"), "got byte 0xff at offset 0,"),
    ("é".encode()[:1], "got byte 0xc3 at offset 0,"),
])
def test_a_file_in_another_encoding_is_refused_with_the_place(content, message, tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"text\.txt: expected text in UTF-8, {message}"):
        read_text(path)


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a UTF-8 text file, got a directory"):
        read_text(tmp_path)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"diary\.txt: .* name of a corpus \(shakespeare\), got") as caught:
        read_text(tmp_path / "diary.txt")
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("name", ["Shakespeare", "shakespear", "tinyshakespeare", "shakespeare.txt", "shakspere"])
def test_a_name_that_is_almost_a_corpus_gets_a_hint(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"{name}: .*did you mean shakespeare\?"):
        read_text(name)


def test_a_path_is_never_the_name_of_a_corpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("shakespeare").write_text("mine", encoding="utf-8")
    assert read_text(Path("shakespeare")) == "mine"
    assert read_text("./shakespeare") == "mine"


def test_tiny_shakespeare_reads_and_encodes_as_others_have_found():
    if not TINY_SHAKESPEARE.exists():
        pytest.skip("tinyshakespeare.txt is not in ../shared/data.")
    text = read_text(TINY_SHAKESPEARE)
    tokenizer = CharacterTokenizer.train(text)
    assert len(text) == 1_115_394
    assert tokenizer.vocab_size == 65
    assert tokenizer.encode(text[:14]) == [18, 47, 56, 57, 58, 1, 15, 47, 58, 47, 64, 43, 52, 10]   # "First Citizen:"
    assert tokenizer.decode(tokenizer.encode_to_array(text)) == text
