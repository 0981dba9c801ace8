"""SentencePiece's tokenizer.model: a protocol buffer with the pieces and how a text is prepared for them.

The numbers of the fields are those of sentencepiece_model.proto, https://github.com/google/sentencepiece.
"""

from tinyllama.tokenizers.added_tokens import AddedToken
from tinyllama.tokenizers.pieces import Kind, Piece
from tinyllama.tokenizers.protobuf import BYTES, FIXED32, VARINT, fields, read
from tinyllama.tokenizers.sentencepiece import SentencePieceTokenizer
from tinyllama.tokenizers.spaces import Spaces

PIECES, TRAINER, NORMALIZER, DENORMALIZER = 1, 2, 3, 5
MODEL_TYPES = {1: "unigram", 2: "BPE", 3: "word", 4: "character"}
NAMES = {"bos": "<s>", "eos": "</s>"}           # of the tokens that begin and end a text, where the file has no others


def looks_like_sentencepiece(head):
    """Whether a file that begins with these bytes may be a tokenizer.model: a first piece, and in it a first text."""
    return head[:1] == b"\n" and b"\n" in (head[2:3], head[3:4])


def read_sentencepiece(data):
    """The tokenizer in the bytes of a tokenizer.model.

    Raises ValueError where they are none, where the model is no BPE model, and where it changes texts in ways that are
    not supported here.
    """
    parts = {PIECES: [], TRAINER: {}, NORMALIZER: {}, DENORMALIZER: {}}
    for number, kind, value in fields(data):
        if number in parts and kind != BYTES:
            raise ValueError(f"expected field {number} of the model to be a message, got a number")
        if number == PIECES:
            parts[PIECES].append(_piece(value, len(parts[PIECES])))
        elif number == TRAINER:
            parts[TRAINER] |= read(value, model_type=(3, VARINT), space_last=(24, VARINT), byte_fallback=(35, VARINT),
                                   unknown_text=(44, BYTES), bos=(46, BYTES), eos=(47, BYTES))
        elif number in (NORMALIZER, DENORMALIZER):
            parts[number] |= read(value, rules=(2, BYTES), prefix=(3, VARINT), remove_extra=(4, VARINT),
                                  mark=(5, VARINT))
    _refuse(*parts.values())
    return _tokenizer(parts[PIECES], parts[TRAINER], parts[NORMALIZER])


def _piece(message, token):
    entry = read(message, text=(1, BYTES), score=(2, FIXED32), kind=(3, VARINT))
    kind = entry.get("kind", Kind.NORMAL)
    if kind not in list(Kind):
        raise ValueError(f"pieces: expected the kind of piece {token} to be 1 to {len(Kind)}, got {kind}")
    return Piece(_text(entry.get("text", b""), f"piece {token}"), Kind(kind), entry.get("score", 0.0))


def _text(data, name):
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: expected text in UTF-8, got byte 0x{data[error.start]:02x}") from error


def _refuse(pieces, trainer, normalizer, denormalizer):
    """Raise ValueError for a model whose tokens would not be those of SentencePiece."""
    kind = trainer.get("model_type", 1)
    if kind != 2:
        raise ValueError("model_type: expected a BPE model, which is all that is supported here, "
                         f"got {MODEL_TYPES.get(kind, kind)}")
    if normalizer.get("rules") or denormalizer.get("rules"):
        raise ValueError("normalizer: expected none or identity, which is all that is supported here, got one with "
                         f"{len(normalizer.get('rules', b'') + denormalizer.get('rules', b''))} bytes of rules, "
                         "which change characters before they are encoded")
    if trainer.get("space_last") or not normalizer.get("mark", 1):
        raise ValueError("spaces: expected them to be marked in front of words, which is all that is supported here, "
                         "got them " + ("behind words" if trainer.get("space_last") else "unmarked"))
    has_bytes = any(piece.kind == Kind.BYTE for piece in pieces)
    if has_bytes != bool(trainer.get("byte_fallback")):
        raise ValueError("byte_fallback: expected pieces of bytes if it is set and else none, got "
                         + ("pieces without it" if has_bytes else "it without pieces"))
    if not any(piece.kind == Kind.UNKNOWN for piece in pieces):
        raise ValueError(f"pieces: expected one that stands for unknown characters, got none in {len(pieces)}")


def _tokenizer(pieces, trainer, normalizer):
    prefix, remove_extra = (bool(normalizer.get(name, 1)) for name in ("prefix", "remove_extra"))
    special = {piece.text: token for token, piece in enumerate(pieces) if piece.kind == Kind.CONTROL}
    names = {name: _text(trainer[name], name) if name in trainer else text for name, text in NAMES.items()}
    settings = {"unknown_text": _text(trainer["unknown_text"], "unknown_text")} if "unknown_text" in trainer else {}
    return SentencePieceTokenizer(
        pieces, spaces=Spaces("always" if prefix else None, remove_extra=remove_extra,
                              drop_first=prefix or remove_extra),
        added_tokens=[AddedToken(piece.text, token) for token, piece in enumerate(pieces)
                      if piece.kind in (Kind.CONTROL, Kind.UNKNOWN)],
        bos_token_id=special.get(names["bos"]), eos_token_id=special.get(names["eos"]), **settings)
