import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from tinyllama.data import Corpus, corpus, read_corpus, read_text, split_corpus
from tinyllama.tokenizers import CharacterTokenizer


def write(folder, files):
    """Make files from {name: bytes or str} in a folder, and return the folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return folder


@pytest.fixture
def endless_stories(monkeypatch):
    """Stories that name their seed and their number, in place of the grammar. Drawing the 50th is a mistake."""
    def stories(seed):
        for number in range(49):
            yield SimpleNamespace(text=f"Story {number} of {seed}.", log_probability=-10.5 - number)
        raise AssertionError("more stories drawn than wanted")

    monkeypatch.setattr(corpus, "stories", stories)


# ---- files

@pytest.mark.parametrize(("content", "text"), [
    (b"one\ntwo\n", "one\ntwo\n"),
    (b"one\r\ntwo\rthree\n\r\n", "one\ntwo\nthree\n\n"),
    (b"\xef\xbb\xbfone", "one"),
    (b"\xef\xbb\xbf\xef\xbb\xbfone", "\ufeffone"),                 # only the first is a mark
    ("one\u2028two\x85three\x0cfour".encode(), "one\u2028two\x85three\x0cfour"),      # none of these ends a line
    ("llama 🦙 é 你".encode(), "llama 🦙 é 你"),
])
def test_a_file_is_one_document_in_utf8_with_any_newlines(content, text, tmp_path):
    path = write(tmp_path, {"text.txt": content}) / "text.txt"
    assert read_corpus(path) == Corpus([text], None)
    assert read_corpus(str(path)) == Corpus([text], None)
    assert read_text(path) == text


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(content, tmp_path):
    path = write(tmp_path, {"text.txt": content}) / "text.txt"
    with pytest.raises(ValueError, match=r"text\.txt: expected a UTF-8 text file, got an empty one"):
        read_corpus(path)


@pytest.mark.parametrize(("content", "message"), [
    ("café".encode("latin-1"), "got byte 0xe9 at offset 3,"),
    (b"\xef\xbb\xbfone\xff", "got byte 0xff at offset 6,"),        # the mark's three bytes count
    ("one".encode("utf-16-le"), "got a zero byte at offset 1, as binary files and UTF-16"),
    ("one".encode("utf-16-be"), "got a zero byte at offset 0, as binary files and UTF-16"),
    (b"\xff\xfe" + "one".encode("utf-16-le"), "got byte 0xff at offset 0,"),
    (b"\xfe\xff" + "one".encode("utf-16-be"), "got byte 0xfe at offset 0,"),
    (b"\x80\x02}q\x00.", "got byte 0x80 at offset 0,"),             # a pickle
    (b"\xef\xbb\xbfo\xc3\xa9\0\0", "got a zero byte at offset 6,"),
    ("one\ud800".encode("utf-8", "surrogatepass"), "got byte 0xed at offset 3,"),
    (b"\xc0\x80", "got byte 0xc0 at offset 0,"),                    # a zero that Java writes in two bytes
    ("é".encode()[:1], "got byte 0xc3 at offset 0,"),
])
def test_a_file_that_is_binary_or_in_another_encoding_is_refused_with_the_place(content, message, tmp_path):
    path = write(tmp_path, {"text.txt": content}) / "text.txt"
    for read in (read_corpus, read_text):
        with pytest.raises(ValueError, match=rf"text\.txt: expected text in UTF-8, {message}"):
            read(path)


def test_an_empty_text_is_not_the_current_folder():
    with pytest.raises(ValueError, match=r"data: expected the path .* corpus \(stories, shakespeare\), got an empty"):
        read_corpus("")


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"diary\.txt: .* corpus \(stories, shakespeare\), got") as caught:
        read_corpus(tmp_path / "diary.txt")
    assert "did you mean" not in str(caught.value)


# ---- folders

def test_a_folder_is_read_by_name_with_what_lies_below_and_without_what_is_hidden(tmp_path):
    folder = write(tmp_path / ".corpus", {          # hidden itself, but asked for
        "b.txt": "5", "a.txt": "4", "B.md": "1", "a/z": "3", "a/b/c/deep.txt": "2", "c10": "6", "c9": "7",
        ".hidden": b"\xff", ".git/config": b"\xff", "a/.cache/x.txt": b"\xff", "a/b/.hidden.txt": b"\xff"})
    (folder / "empty").mkdir()
    assert read_corpus(folder) == Corpus(["1", "2", "3", "4", "5", "6", "7"], None)
    assert read_corpus(str(folder) + "/").documents == ["1", "2", "3", "4", "5", "6", "7"]


@pytest.mark.parametrize("source", [".", "../corpus", "../corpus/./"])
def test_a_folder_may_be_named_with_dots(source, tmp_path, monkeypatch):
    monkeypatch.chdir(write(tmp_path / "corpus", {"b": "two", "a": "one", ".c": b"\xff"}))
    assert read_corpus(source).documents == ["one", "two"]


@pytest.mark.parametrize("files", [{}, {".hidden": "text"}, {".git/config": "text"}])
def test_a_folder_without_files_is_refused(files, tmp_path):
    folder = write(tmp_path, files)
    (folder / "nothing" / "here").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"test_a_folder.*: expected a folder with UTF-8 text files, got one without"):
        read_corpus(folder)


@pytest.mark.parametrize(("content", "message"), [
    (b"\x89PNG\r\n", "expected text in UTF-8, got byte 0x89 at offset 0"),
    (b"MZ\0\0", "expected text in UTF-8, got a zero byte at offset 2"),
    (b"", "expected a UTF-8 text file, got an empty one"),
])
def test_one_bad_file_in_a_folder_is_named(content, message, tmp_path):
    folder = write(tmp_path, {"a.txt": "one", "inner/bad.txt": content, "z.txt": "two"})
    with pytest.raises(ValueError, match=rf"inner[/\\]bad\.txt: {message}"):
        read_corpus(folder)


@pytest.mark.skipif(os.name == "nt", reason="Links need a privilege on Windows.")
def test_links_to_files_are_read_and_links_to_folders_are_not_followed(tmp_path):
    folder = write(tmp_path / "corpus", {"a/one.txt": "one", "b/two.txt": "two"})
    outside = write(tmp_path / "elsewhere", {"three.txt": "three", "four.txt": "four"})
    (folder / "a" / "loop").symlink_to(folder)
    (folder / "a" / "itself").symlink_to(folder / "a" / "itself")
    (folder / "broken").symlink_to(tmp_path / "nothing")
    (folder / "outside").symlink_to(outside)
    (folder / "c.txt").symlink_to(outside / "three.txt")
    assert read_corpus(folder).documents == ["one", "two", "three"]


# ---- corpora that are known by name

@pytest.mark.usefixtures("endless_stories")
def test_stories_come_with_their_probabilities_from_the_seed():
    corpus = read_corpus("stories", seed=3, stories_wanted=4)
    assert corpus.documents == ["Story 0 of 3.", "Story 1 of 3.", "Story 2 of 3.", "Story 3 of 3."]
    assert corpus.log_probabilities == [-10.5, -11.5, -12.5, -13.5]
    assert read_corpus("stories", seed=4, stories_wanted=1).documents == ["Story 0 of 4."]
    assert len(read_corpus("stories", stories_wanted=49).documents) == 49       # and not one more is drawn


@pytest.mark.parametrize(("name", "corpus"), [
    *((name, "shakespeare") for name in ("Shakespeare", "shakespear", "tinyshakespeare", "shakespeare.txt",
                                         "shakspere")),
    *((name, "stories") for name in ("Stories", "story", "storeis", "stories.txt", "tinystories")),
])
def test_a_name_that_is_almost_a_corpus_gets_a_hint(name, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"{name}: .*did you mean {corpus}\?"):
        read_corpus(name)


@pytest.mark.parametrize("name", ["shakespeare", "stories"])
def test_a_path_is_never_the_name_of_a_corpus(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text("mine", encoding="utf-8")
    for source in (Path(name), f"./{name}"):
        assert read_corpus(source).documents == ["mine"]
        assert read_text(source) == "mine"


# ---- one text of several documents

@pytest.mark.parametrize(("files", "text"), [
    ({"a": "one", "b": "two", "c": "three"}, "one\n\ntwo\n\nthree"),
    ({"a": "one\n", "b": "two\r\n", "c": "three\n"}, "one\n\ntwo\n\nthree\n"),
    ({"a": "one\n\n", "b": "two\n\n"}, "one\n\n\ntwo\n\n"),             # a document's own empty line stays
])
def test_one_text_has_an_empty_line_between_its_documents(files, text, tmp_path):
    assert read_text(write(tmp_path, files)) == text


# ---- training and validation

def assert_nothing_is_lost_or_doubled(corpus, train, validation):
    """Whole documents: those of both parts, in the order in which the corpus has them, are the corpus."""
    assert sorted(train.documents + validation.documents) == sorted(corpus.documents)
    for part in (train, validation):
        places = [corpus.documents.index(document) for document in part.documents]
        assert places == sorted(places)
        if corpus.log_probabilities is not None:
            assert part.log_probabilities == [corpus.log_probabilities[place] for place in places]


@pytest.mark.parametrize(("count", "held_back"), [(10, [9]), (11, [9]), (19, [9]), (20, [9, 19]), (35, [9, 19, 29])])
@pytest.mark.parametrize("are_known", [False, True], ids=["unknown", "probabilities"])
def test_of_ten_documents_one_validates_whole(count, held_back, are_known):
    documents = [f"{i:03} " * (i % 4 + 1) for i in range(count)]
    corpus = Corpus(documents, [-1.5 * i for i in range(count)] if are_known else None)
    train, validation = split_corpus(corpus)
    assert validation.documents == [documents[i] for i in held_back]
    assert_nothing_is_lost_or_doubled(corpus, train, validation)
    assert (train.log_probabilities is None) == (validation.log_probabilities is None) == (not are_known)
    assert corpus.documents == documents            # untouched


@pytest.mark.parametrize("lengths", [[50], [100, 37, 10, 11, 9], [20] * 9])
def test_of_fewer_documents_the_end_of_each_validates(lengths):
    documents = ["".join(chr(0x4E00 + 1000 * i + j) for j in range(length)) for i, length in enumerate(lengths)]
    train, validation = split_corpus(Corpus(documents, [-1.0] * len(documents)))
    assert [a + b for a, b in zip(train.documents, validation.documents, strict=True)] == documents
    for length, end in zip(lengths, validation.documents, strict=True):
        assert length / 10 <= len(end) < length / 10 + 1
    assert train.log_probabilities is validation.log_probabilities is None      # nobody knows those of a part


def test_tiny_shakespeare_splits_as_nanogpt_splits_it():
    train, validation = split_corpus(Corpus(["x" * 1_003_854 + "y" * 111_540]))
    assert train == Corpus(["x" * 1_003_854], None)
    assert validation == Corpus(["y" * 111_540], None)


def test_tiny_shakespeare_reads_and_encodes_as_others_have_found(shared_data):
    text = read_text(shared_data / "tinyshakespeare.txt")
    tokenizer = CharacterTokenizer.train(text)
    assert len(text) == 1_115_394
    assert tokenizer.vocab_size == 65
    assert tokenizer.encode(text[:14]) == [18, 47, 56, 57, 58, 1, 15, 47, 58, 47, 64, 43, 52, 10]   # "First Citizen:"
    assert tokenizer.decode(tokenizer.encode_to_array(text)) == text
