"""`load_tokenizer`: finds out what a file is, by what it holds and not by its name, and reads it."""

import codecs
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tinyllama.tokenizers.bpe import BytePairTokenizer
from tinyllama.tokenizers.characters import CharacterTokenizer
from tinyllama.tokenizers.files import expect, read_document
from tinyllama.tokenizers.gguf_vocabulary import looks_like_gguf, read_gguf_tokenizer
from tinyllama.tokenizers.gpt2_files import gpt2_pair, read_gpt2_pair
from tinyllama.tokenizers.llama2c_vocabulary import looks_like_llama2c, read_llama2c
from tinyllama.tokenizers.ranks import looks_like_ranks, read_ranks
from tinyllama.tokenizers.sentencepiece import SentencePieceTokenizer
from tinyllama.tokenizers.sentencepiece_json import is_sentencepiece
from tinyllama.tokenizers.sentencepiece_model import looks_like_sentencepiece, read_sentencepiece

HEAD = 4096                     # bytes that tell what a file is
LARGEST = 1 << 28               # bytes of a vocabulary; the largest that are published have a tenth of it
NAMES = ("tokenizer.json", "tokenizer.model")       # what is looked for in a directory, the first first


class Format(NamedTuple):
    """A kind of file: what it is called, whether a file's first bytes are of that kind, and a reader of its path."""

    name: str
    matches: Callable
    read: Callable


def load_tokenizer(path):
    """The tokenizer in a file, or in the tokenizer.json or tokenizer.model of a directory.

    Reads what tinyllama saved, and the formats in `FORMATS`. Raises FileNotFoundError where there is no file, and
    ValueError where it holds something else.
    """
    file = _existing(path)
    with file.open("rb") as stream:
        head = stream.read(HEAD)
    for form in FORMATS:
        if form.matches(head):
            return form.read(file)
    raise ValueError(f"{file}: expected {', '.join(form.name for form in FORMATS[:-1])} or {FORMATS[-1].name}, got "
                     + (f"a file that begins with {head[:16]!r}" if head else "an empty file"))


def _existing(path):
    path = Path(path)
    if not path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"{path}: expected a tokenizer's file or a directory that holds one, got a path "
                                    "where nothing is")
        return path
    for name in NAMES:
        if (path / name).is_file():
            return path / name
    if pair := gpt2_pair(path):
        return pair[0]
    raise FileNotFoundError(f"{path}: expected a tokenizer's file or a directory that holds {' or '.join(NAMES)}, "
                            "got a directory without it")


def _looks_like_json(head):
    return head.removeprefix(codecs.BOM_UTF8).lstrip()[:1] in (b"{", b"[")


def _read_json(file):
    """The tokenizer in a JSON file: in the format of the library `tokenizers`, or one of ours with a "type"."""
    if gpt2_pair(file):
        return read_gpt2_pair(file)
    document = read_document(file)
    if is_sentencepiece(document):
        return SentencePieceTokenizer.from_document(document, file)
    if "model" in document:
        return BytePairTokenizer.from_document(document, file)
    expect(file, document, "type", [CharacterTokenizer.TYPE])
    return CharacterTokenizer.from_document(document, file)


def whole(read):
    """A reader of a path from a reader of all the bytes of a file, with the file's name in its errors."""
    def read_file(file):
        size = file.stat().st_size
        if size > LARGEST:
            raise ValueError(f"{file}: expected a tokenizer of at most {LARGEST:,} bytes, got {size:,}")
        try:
            return read(file.read_bytes())
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
    return read_file


# In this order: the first that matches is taken.
FORMATS = (
    Format("a tokenizer saved as JSON", _looks_like_json, _read_json),
    Format("SentencePiece's tokenizer.model", looks_like_sentencepiece, whole(read_sentencepiece)),
    Format("llama2.c's tokenizer.bin", looks_like_llama2c, whole(read_llama2c)),
    Format("tiktoken's ranks", looks_like_ranks, read_ranks),
    Format("GGUF", looks_like_gguf, read_gguf_tokenizer),
)
