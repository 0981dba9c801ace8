"""Tokenizer files written by hand, so that a test can say what is in them: tokenizer.model and tokenizer.bin."""

import struct

from tinyllama.tokenizers.pieces import Kind, Piece

BYTES = [Piece(f"<0x{byte:02X}>", Kind.BYTE) for byte in range(256)]
NAMES = [Piece("<unk>", Kind.UNKNOWN), Piece("<s>", Kind.CONTROL), Piece("</s>", Kind.CONTROL)]


def normal(*texts, kind=Kind.NORMAL):
    """Pieces of which each has a lower score than the one before."""
    return [Piece(text, kind, -float(place)) for place, text in enumerate(texts)]


def varint(number):
    low, rest = number & 0x7F, number >> 7
    return bytes([low]) if not rest else bytes([low | 0x80]) + varint(rest)


def field(number, value):
    """One field of a message: an int, a float of four bytes, or bytes."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def message(values):
    return b"".join(field(number, value) for number, value in values.items())


def model_file(pieces, *, trainer=None, normalizer=None, denormalizer=None):
    """The bytes of a tokenizer.model of BPE, byte fallback where there are bytes, no normalization, spaces kept."""
    entries = [{1: piece.text.encode(), 2: piece.score, 3: int(piece.kind)} for piece in pieces]
    has_bytes = any(piece.kind == Kind.BYTE for piece in pieces)
    parts = [(1, entry) for entry in entries]
    parts += [(2, {3: 2, 35: int(has_bytes)} | (trainer or {})), (3, {4: 0} | (normalizer or {}))]
    parts += [(5, denormalizer)] if denormalizer else []
    return b"".join(field(number, message(values)) for number, values in parts)


def llama2c_file(pieces):
    """The bytes of a tokenizer.bin: [(text as it is there, score)]."""
    texts = [text.encode() for text, _ in pieces]
    entries = [struct.pack("<fi", score, len(text)) + text for text, (_, score) in zip(texts, pieces, strict=True)]
    return struct.pack("<i", max(map(len, texts))) + b"".join(entries)


def llama2c_pieces(*texts):
    names = [("<unk>", 0.0), ("\n<s>\n", 0.0), ("\n</s>\n", 0.0)]
    return [*names, *((piece.text, 0.0) for piece in BYTES), *((p.text, p.score) for p in normal(*texts))]
