"""llama2.c's tokenizer.bin: the pieces of a SentencePiece model with their scores, and nothing else.

The length of the longest piece (int32), then for each token its score (float32), the length of its text (int32) and the
text in UTF-8, little-endian. A space is a space there, a byte <0x0A>. The first three tokens are the unknown one and
those that begin and end a text, whose names have line breaks around them; the 256 bytes follow.
Source: https://github.com/karpathy/llama2.c, tokenizer.py.
"""

import struct

from tinyllama.tokenizers.added_tokens import AddedToken
from tinyllama.tokenizers.pieces import BYTE_PIECES, Kind, Piece
from tinyllama.tokenizers.sentencepiece import SentencePieceTokenizer
from tinyllama.tokenizers.spaces import MARK

UNKNOWN, BOS, EOS = range(3)
_HEADER, _ENTRY = struct.Struct("<i"), struct.Struct("<fi")
_LONGEST = 1 << 16


def looks_like_llama2c(head):
    """Whether a file that begins with these bytes may be a tokenizer.bin: lengths that could be those of pieces."""
    if len(head) < _HEADER.size + _ENTRY.size:
        return False
    longest, _, length = struct.unpack_from("<ifi", head)
    return 0 < length <= longest < _LONGEST


def read_llama2c(data):
    """The tokenizer in the bytes of a tokenizer.bin. Raises ValueError where they are none or were cut short."""
    pieces, at = [], _HEADER.size
    longest, = _HEADER.unpack_from(data)
    while at < len(data):
        if at + _ENTRY.size > len(data):
            raise ValueError(f"expected {_ENTRY.size} bytes for token {len(pieces)} at offset {at}, "
                             f"got {len(data) - at}: the file was cut short")
        score, length = _ENTRY.unpack_from(data, at)
        at += _ENTRY.size
        if not 0 < length <= min(longest, len(data) - at):
            raise ValueError(f"expected token {len(pieces)} to have from 1 to {longest} bytes, and {len(data) - at} "
                             f"left in the file, got a length of {length}")
        pieces.append(_piece(data[at:at + length], score, len(pieces)))
        at += length
    names = {piece.text for piece in pieces if piece.kind == Kind.BYTE}
    if names != set(BYTE_PIECES):
        raise ValueError(f"expected the tokens 3 to 258 to be <0x00> to <0xFF>, got {len(pieces)} tokens, "
                         f"{len(names & set(BYTE_PIECES))} of them such bytes")
    return SentencePieceTokenizer(
        pieces, added_tokens=[AddedToken(pieces[token].text, token) for token in (UNKNOWN, BOS, EOS)],
        bos_token_id=BOS, eos_token_id=EOS)


def _piece(data, score, token):
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"token {token}: expected text in UTF-8, got byte 0x{data[error.start]:02x}") from error
    if token <= EOS:
        return Piece(text.strip(), Kind.UNKNOWN if token == UNKNOWN else Kind.CONTROL, score)
    return Piece(text.replace(" ", MARK), Kind.BYTE if token < EOS + 1 + 256 else Kind.NORMAL, score)
