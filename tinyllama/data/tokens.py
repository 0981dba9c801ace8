"""Documents as tokens: one long array with the places where the documents begin, kept in memory-mapped files."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Tokens(NamedTuple):
    """D documents, one after the other."""

    ids: Any        # (N,) unsigned integers, perhaps a memory-mapped file
    starts: Any     # (D + 1,) int64: document d is ids[starts[d]:starts[d + 1]]

    @property
    def lengths(self):
        """How many tokens each document has: (D,)."""
        return np.diff(self.starts)

    def save(self, directory, name):
        """Write NAME.npy and NAME-starts.npy into a directory, which is made if needed."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for file, array in _files(directory, name, self):
            with open(file, "wb") as stream:
                np.save(stream, array)
                stream.flush()
                os.fsync(stream.fileno())

    @classmethod
    def open(cls, directory, name):
        """The tokens that `save` wrote, left on the disk until they are read.

        Raises FileNotFoundError where a file is missing, ValueError where one is cut short or another kind of file.
        """
        arrays = []
        for file, _ in _files(Path(directory), name, (None, None)):
            if not file.exists():
                raise FileNotFoundError(f"{file}: expected the tokens of the run, got a path where nothing is")
            try:
                arrays.append(np.lib.format.open_memmap(file, mode="r"))
            except ValueError as error:
                raise ValueError(f"{file}: expected an array of tokens, got a file that is no array or was cut short "
                                 f"({error})") from error
        ids, starts = arrays
        if not _belong_together(ids, starts):
            raise ValueError(f"{directory}: expected tokens and the starts of their documents in {name}.npy and "
                             f"{name}-starts.npy, got arrays that do not belong together, of the shapes {ids.shape} "
                             f"and {starts.shape} and the types {ids.dtype} and {starts.dtype}")
        return cls(ids, starts)


def tokenize(documents, tokenizer):
    """The tokens of some texts. Where the tokenizer has them, each document begins and ends with a token of its own.

    documents: an iterable of D texts  ->  Tokens, in 16 bits a token where the vocabulary allows. Raises what the
    tokenizer raises for a text that it cannot encode.
    """
    dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
    before, after = ([] if token is None else [np.array([token], dtype=dtype)]
                     for token in (tokenizer.bos_token_id, tokenizer.eos_token_id))
    pieces, starts = [np.zeros(0, dtype=dtype)], [0]
    for document in documents:
        parts = [*before, tokenizer.encode_to_array(document).astype(dtype), *after]
        pieces += parts
        starts.append(starts[-1] + sum(map(len, parts)))
    return Tokens(np.concatenate(pieces), np.array(starts, dtype=np.int64))


def _belong_together(ids, starts):
    return (ids.ndim == starts.ndim == 1 and ids.dtype.kind == "u" and starts.dtype == np.int64 and len(starts) > 0
            and starts[0] == 0 and starts[-1] == len(ids) and bool(np.all(np.diff(starts) >= 0)))


def _files(directory, name, arrays):
    return zip((directory / f"{name}.npy", directory / f"{name}-starts.npy"), arrays, strict=True)
