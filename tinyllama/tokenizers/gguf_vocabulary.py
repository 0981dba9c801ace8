"""The tokenizer in the metadata of a GGUF file, under the names tokenizer.ggml.*"""

import numpy as np

from tinyllama.gguf_header import MAGIC, Strings, read_header
from tinyllama.tokenizers.added_tokens import AddedToken
from tinyllama.tokenizers.bpe import BytePairTokenizer
from tinyllama.tokenizers.byte_level import from_printable
from tinyllama.tokenizers.patterns import SPLITTINGS
from tinyllama.tokenizers.pieces import Kind, Piece
from tinyllama.tokenizers.sentencepiece import SentencePieceTokenizer
from tinyllama.tokenizers.spaces import Spaces

PREFIX = "tokenizer.ggml."


def looks_like_gguf(head):
    """Whether the first bytes of a file are those of a GGUF file."""
    return head.startswith(MAGIC)


def read_gguf_tokenizer(path):
    """The tokenizer in a GGUF file. Raises ValueError where it holds none, or one that is not supported here."""
    metadata = {name: _plain(value) for name, value in read_header(path).metadata.items() if name.startswith(PREFIX)}
    try:
        return tokenizer_from_metadata(metadata)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def tokenizer_from_metadata(metadata):
    """The tokenizer that the metadata of a GGUF file describe.

    metadata: {name: value}, with lists for arrays. The model "gpt2" is byte-level BPE, and "pre" names how it
    cuts a text into words; "llama" is SentencePiece. Raises ValueError for others, and where the parts do not fit.
    """
    parts = {name.removeprefix(PREFIX): value for name, value in metadata.items() if name.startswith(PREFIX)}
    makers = {"gpt2": _byte_level, "llama": _sentencepiece}
    if parts.get("model") not in makers:
        raise ValueError(f"{PREFIX}model: expected {' or '.join(makers)}, got {parts.get('model')!r}")
    tokens = _list(parts, "tokens", str)
    kinds = parts.get("token_type", [Kind.NORMAL] * len(tokens))
    if not isinstance(kinds, list) or len(kinds) != len(tokens) or not set(kinds) <= set(Kind):
        raise ValueError(f"{PREFIX}token_type: expected {len(tokens)} numbers from 1 to {len(Kind)}, "
                         f"got {str(kinds)[:40]}")
    first, last = (_token(parts, name, len(tokens)) for name in ("bos_token_id", "eos_token_id"))
    kinds = [Kind.CONTROL if token in (first, last) and kind != Kind.UNKNOWN else Kind(kind)
             for token, kind in enumerate(kinds)]
    return makers[parts["model"]](parts, tokens, kinds, {"bos_token_id": first, "eos_token_id": last})


def _plain(value):
    """A value of a header, with a list in the place of an array."""
    return list(value) if isinstance(value, Strings) else value.tolist() if isinstance(value, np.ndarray) else value


def _byte_level(parts, tokens, kinds, ends):
    pre = parts.get("pre", "default")
    if pre not in SPLITTINGS:
        raise ValueError(f"{PREFIX}pre: expected {', '.join(SPLITTINGS)}, got {pre!r}")
    splitting = SPLITTINGS[pre]
    merges = [merge.split(" ") for merge in _list(parts, "merges", str)]
    for merge in merges:
        if len(merge) != 2:
            raise ValueError(f"{PREFIX}merges: expected two pieces, got {' '.join(merge)[:80]!r}")
    named = (Kind.CONTROL, Kind.UNKNOWN, Kind.USER_DEFINED)
    return BytePairTokenizer(
        [text if kind in named else from_printable(text) for text, kind in zip(tokens, kinds, strict=True)],
        [(from_printable(left), from_printable(right)) for left, right in merges],
        patterns=splitting.patterns, whole_words=splitting.whole_words, normalization=splitting.normalization,
        added_tokens=[AddedToken(text, token, special=kind != Kind.USER_DEFINED)
                      for token, (text, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind in named],
        adds_bos=ends["bos_token_id"] is not None and _flag(parts, "add_bos_token", splitting.adds_bos), **ends)


def _sentencepiece(parts, tokens, kinds, ends):
    scores = parts.get("scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise ValueError(f"{PREFIX}scores: expected {len(tokens)} numbers, got {str(scores)[:40]}")
    prefix = _flag(parts, "add_space_prefix", True)
    return SentencePieceTokenizer(
        [Piece(*piece) for piece in zip(tokens, kinds, scores, strict=True)],
        spaces=Spaces("always" if prefix else None, remove_extra=_flag(parts, "remove_extra_whitespaces", False),
                      drop_first=prefix),
        added_tokens=[AddedToken(text, token, special=True)
                      for token, (text, kind) in enumerate(zip(tokens, kinds, strict=True))
                      if kind in (Kind.CONTROL, Kind.UNKNOWN)],
        **ends)


def _list(parts, name, kind):
    values = parts.get(name)
    if not isinstance(values, list) or not values or not all(isinstance(value, kind) for value in values):
        raise ValueError(f"{PREFIX}{name}: expected a list of texts, got {str(values)[:40]}")
    return values


def _token(parts, name, size):
    token = parts.get(name)
    if token is not None and not (type(token) is int and 0 <= token < size):
        raise ValueError(f"{PREFIX}{name}: expected a token from 0 to {size - 1}, got {token!r}")
    return token


def _flag(parts, name, default):
    flag = parts.get(name, default)
    if not isinstance(flag, bool):
        raise ValueError(f"{PREFIX}{name}: expected true or false, got {flag!r}")
    return flag
