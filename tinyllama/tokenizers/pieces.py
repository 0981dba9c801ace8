"""The vocabulary of a SentencePiece-style tokenizer: pieces of text, and what each is for."""

import enum
import sys
from collections import Counter
from typing import NamedTuple


class Kind(enum.IntEnum):
    """What a piece is for. The numbers are those of SentencePiece's files."""

    NORMAL = 1
    UNKNOWN = 2             # stands for characters that have no piece
    CONTROL = 3             # stands for no text, like the tokens that begin and end one
    USER_DEFINED = 4        # is never cut and never merged
    UNUSED = 5              # may be made on the way to a longer piece, but is a token of no text
    BYTE = 6


class Piece(NamedTuple):
    """An entry of the vocabulary. Of two pieces that could be made, the one with the higher score is made first."""

    text: str
    kind: Kind = Kind.NORMAL
    score: float = 0.0


BYTE_PIECES = {f"<0x{byte:02X}>": byte for byte in range(256)}        # how the piece of one byte is spelled


def is_finite(score):
    """Whether a number, which may be a whole one of any size, is a finite float64."""
    return abs(score) <= sys.float_info.max


def check_pieces(pieces):
    """Raise ValueError unless the pieces can be the vocabulary of a tokenizer that has a token for every text."""
    texts = Counter(piece.text for piece in pieces)
    if "" in texts:
        raise ValueError("pieces: expected texts of at least one character, got ''")
    if len(texts) < len(pieces):
        text, count = texts.most_common(1)[0]
        raise ValueError(f"pieces: expected distinct texts, got {text!r} {count} times")
    kinds = Counter(piece.kind for piece in pieces)
    if kinds[Kind.UNKNOWN] > 1 or not (kinds[Kind.UNKNOWN] or kinds[Kind.BYTE]):
        raise ValueError("pieces: expected one unknown piece, or none and a piece for every byte, "
                         f"got {kinds[Kind.UNKNOWN]} unknown pieces and {kinds[Kind.BYTE]} of bytes")
    if kinds[Kind.BYTE] not in (0, 256):
        raise ValueError(f"pieces: expected none of bytes, or one for each of the 256, got {kinds[Kind.BYTE]}")
    for piece in pieces:
        if piece.kind == Kind.BYTE and piece.text not in BYTE_PIECES:
            raise ValueError(f"pieces: expected the piece of a byte to be spelled like <0x0A>, got {piece.text!r}")
        if piece.kind in (Kind.NORMAL, Kind.UNUSED) and " " in piece.text:
            raise ValueError(f"pieces: expected ▁ where a piece has a space, got {piece.text!r}")
        if not is_finite(piece.score):
            raise ValueError(f"pieces: expected finite scores, got {piece.score} for {piece.text!r}")
