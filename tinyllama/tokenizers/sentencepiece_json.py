"""The tokenizer.json of a SentencePiece-style tokenizer, in the format of the library `tokenizers`.

That format ranks pairs where SentencePiece scores pieces, so that its merges have no ties, and it looks for
user-defined pieces before the spaces are marked. What it has no place for lies in model -> tinyllama, where the library
looks for nothing: the scores, the kinds of the pieces, the rules for spaces, and which tokens begin and end a text. A
file with that key is read back as it was. The library gives the same ids but where two pieces with one score overlap
in a text, after user-defined pieces if a ▁ is put before a text, and for unused pieces.
"""

from tinyllama.tokenizers.added_tokens import AddedToken
from tinyllama.tokenizers.files import token_names_beside
from tinyllama.tokenizers.merge_by_score import ranked_pairs
from tinyllama.tokenizers.pieces import BYTE_PIECES, Kind, Piece, is_finite
from tinyllama.tokenizers.spaces import MARK, PREFIXES, Spaces

_TO_MARKS = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
_PREPEND = {"type": "Prepend", "prepend": MARK}
_TO_SPACES = {"type": "Replace", "pattern": {"String": MARK}, "content": " "}
_DROP_FIRST = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
_METASPACE = {"missing": "always", "first": "first", None: "never"}             # our prefix: the library's word


def is_sentencepiece(document):
    """Whether a tokenizer.json holds this kind of tokenizer, rather than a byte-level one."""
    model = document.get("model")
    return isinstance(model, dict) and bool(model.get("byte_fallback") or "scores" in (model.get("tinyllama") or ()))


# ---- writing

def to_document(tokenizer):
    """The JSON document of a tokenizer."""
    pairs = tokenizer.pairs if tokenizer.pairs is not None else ranked_pairs(tokenizer.pieces)
    scores = [piece.score for piece in tokenizer.pieces] if tokenizer.pairs is None else None
    unknown = next((piece.text for piece in tokenizer.pieces if piece.kind == Kind.UNKNOWN), None)
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [*map(_added, tokenizer.added_tokens), *_user_defined(tokenizer)],
        "normalizer": _normalizer(tokenizer.spaces), "pre_tokenizer": _pre_tokenizer(tokenizer.spaces),
        "post_processor": None, "decoder": _decoder(tokenizer.spaces),
        "model": {
            "type": "BPE", "dropout": None, "unk_token": unknown, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True,
            "byte_fallback": any(piece.kind == Kind.BYTE for piece in tokenizer.pieces),
            "ignore_merges": tokenizer.whole_words,
            "vocab": {piece.text: token for token, piece in enumerate(tokenizer.pieces)},
            # no piece holds a space, so "left right" is clear, and every version of the library reads it
            "merges": [f"{left} {right}" for left, right in pairs],
            "tinyllama": {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
                          "scores": scores, "kinds": [int(piece.kind) for piece in tokenizer.pieces],
                          "spaces": tokenizer.spaces._asdict(), "unknown_text": tokenizer.unknown_text,
                          "user_defined": [token.token for token in tokenizer.user_defined()]},
        },
    }


def _added(token):
    return {"id": token.token, "content": token.text, "single_word": token.single_word, "lstrip": token.left_strip,
            "rstrip": token.right_strip, "normalized": token.normalized, "special": token.special}


def _user_defined(tokenizer):
    """User-defined pieces as added tokens: normalized where that puts no ▁ before the name to look for."""
    return [_added(token._replace(normalized=tokenizer.spaces.prefix is None)) for token in tokenizer.user_defined()]


def _normalizer(spaces):
    if spaces.prefix in ("missing", "first") or spaces.split:
        return None
    steps = [_PREPEND, _TO_MARKS] if spaces.prefix else [_TO_MARKS]
    if spaces.remove_extra:
        steps = [_removing(r"\A +| +\z", ""), _removing(" {2,}", " "), *steps, _removing(rf"{MARK}+\z", "")]
    return {"type": "Sequence", "normalizers": steps}


def _removing(pattern, content):
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def _pre_tokenizer(spaces):
    if spaces.prefix in ("missing", "first") or spaces.split:
        return {"type": "Metaspace", "replacement": MARK, "prepend_scheme": _METASPACE[spaces.prefix],
                "split": spaces.split}
    return None


def _decoder(spaces):
    steps = [_TO_SPACES, {"type": "ByteFallback"}, {"type": "Fuse"}] + [_DROP_FIRST] * spaces.drop_first
    return {"type": "Sequence", "decoders": steps}


# ---- reading

def read_parts(document, path):
    """What a `SentencePieceTokenizer` is made of, from the document of such a tokenizer, ours or not.

    Which tokens begin and end a text is not in a foreign file. The file tokenizer_config.json tells, where it lies
    beside. Raises ValueError where the document holds something else, or something that is not supported here.
    """
    model = _expect(document, "model", dict)
    _refuse(document, truncation=[None], padding=[None])
    _refuse(model, type=["BPE", None], dropout=[None, 0.0], continuing_subword_prefix=[None, ""],
            end_of_word_suffix=[None, ""])
    entries = _entries(document.get("added_tokens"))
    texts = _texts(_expect(model, "vocab", dict), entries)
    if model.get("tinyllama") is not None:
        return _our_parts(_expect(model, "tinyllama", dict), texts, entries, model)
    spaces = _spaces(document)
    kinds = _kinds(texts, entries, model)
    if Kind.UNKNOWN in kinds and Kind.BYTE not in kinds:        # unknown characters in a row are one token here
        _refuse({"fuse_unk": model.get("fuse_unk", False)}, fuse_unk=[True])
    names = token_names_beside(path)
    return {
        "pieces": list(map(Piece, texts, kinds)), "merges": _merges(model), "spaces": spaces,
        "added_tokens": list(map(_added_token, entries)),
        "bos_token_id": texts.index(names["bos_token"]) if names.get("bos_token") in texts else None,
        "eos_token_id": texts.index(names["eos_token"]) if names.get("eos_token") in texts else None,
        "whole_words": bool(model.get("ignore_merges")),
    }


def _our_parts(ours, texts, entries, model):
    """The parts of a tokenizer that `to_document` wrote."""
    scores, kinds, user_defined = ours.get("scores"), _expect(ours, "kinds", list), _expect(ours, "user_defined", list)
    if scores is not None and not (isinstance(scores, list) and len(scores) == len(texts) and
                                   all(type(score) in (int, float) and is_finite(score) for score in scores)):
        raise ValueError(f"scores: expected {len(texts)} finite numbers or nothing, got {str(scores)[:40]}")
    if len(kinds) != len(texts) or not all(type(kind) is int and kind in list(Kind) for kind in kinds):
        raise ValueError(f"kinds: expected {len(texts)} numbers from 1 to {len(Kind)}, got {str(kinds)[:40]}")
    return {
        "pieces": [Piece(*parts) for parts in zip(texts, map(Kind, kinds), scores or [0.0] * len(texts), strict=True)],
        "merges": _merges(model) if scores is None else None, "spaces": _our_spaces(_expect(ours, "spaces", dict)),
        "added_tokens": [_added_token(entry) for entry in entries if entry["id"] not in user_defined],
        "bos_token_id": ours.get("bos_token_id"), "eos_token_id": ours.get("eos_token_id"),
        "unknown_text": _expect(ours, "unknown_text", str), "whole_words": bool(model.get("ignore_merges")),
    }


def _our_spaces(rules):
    flags = {type(rules.get(name)) for name in Spaces._fields[1:]}
    if rules.keys() != set(Spaces._fields) or rules["prefix"] not in PREFIXES or flags != {bool}:
        raise ValueError(f"spaces: expected {Spaces()._asdict()} or the like, got {rules}")
    return Spaces(**rules)


def _expect(parent, key, kind):
    value = parent.get(key)
    if not isinstance(value, kind):
        what = {dict: "a JSON object", list: "a list", str: "a text"}[kind]
        raise ValueError(f"{key}: expected {what}, got {str(value)[:40]}")
    return value


def _refuse(parent, **supported):
    """Raise ValueError unless each of the keys is absent or has one of the values that are supported."""
    for key, values in supported.items():
        if parent.get(key) not in values:
            raise ValueError(f"{key}: expected {' or '.join(map(repr, values))}, which is all that is supported here, "
                             f"got {str(parent[key])[:40]}")


def _entries(added):
    """The added tokens as the file has them, once they are known to be what they should be."""
    if added is None:
        return []
    if not (isinstance(added, list) and all(isinstance(entry, dict) for entry in added)):
        raise ValueError(f"added_tokens: expected a list of JSON objects, got {str(added)[:40]}")
    for entry in added:
        if not isinstance(entry.get("content"), str) or type(entry.get("id")) is not int:
            raise ValueError(f"added_tokens: expected a text as content and a whole number as id, "
                             f"got {str(entry)[:80]}")
    return added


def _texts(vocabulary, entries):
    """The texts of the pieces by token."""
    tokens = vocabulary | {entry["content"]: entry["id"] for entry in entries}
    if not all(type(token) is int for token in tokens.values()) or sorted(tokens.values()) != list(range(len(tokens))):
        raise ValueError(f"vocab: expected the ids 0 to {len(tokens) - 1}, each once, got others")
    return sorted(tokens, key=tokens.__getitem__)


def _kinds(texts, entries, model):
    special = {entry["content"] for entry in entries if entry.get("special")}

    def kind(text):
        if text == model.get("unk_token"):
            return Kind.UNKNOWN
        if text in special:
            return Kind.CONTROL
        if text not in model["vocab"]:
            return Kind.USER_DEFINED
        return Kind.BYTE if text in BYTE_PIECES else Kind.NORMAL

    return list(map(kind, texts))


def _added_token(entry):
    flags = ("special", "lstrip", "rstrip", "single_word", "normalized")
    return AddedToken(entry["content"], entry["id"], *(bool(entry.get(flag)) for flag in flags))


def _merges(model):
    """[(left, right)], from "left right" or from ["left", "right"], as newer files have it."""
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in _expect(model, "merges", list)]
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise ValueError(f"merges: expected pairs of pieces, got {pair!r}")
    return [tuple(pair) for pair in pairs]


def _spaces(document):
    """The rules for spaces, from the normalizer, the pre-tokenizer and the decoder of a foreign file."""
    drop_first = _reads_decoder(document.get("decoder"))
    steps = _steps(document.get("normalizer"), "normalizers")
    metaspace = document.get("pre_tokenizer")
    if metaspace is None and steps in ([_PREPEND, _TO_MARKS], [_TO_MARKS, _PREPEND], [_TO_MARKS]):
        return Spaces("always" if _PREPEND in steps else None, drop_first=drop_first)
    if steps or not isinstance(metaspace, dict) or metaspace.get("type") != "Metaspace":
        raise ValueError("normalizer, pre_tokenizer: expected the normalizers Prepend ▁ and Replace ' ' by ▁ alone, or "
                         f"the pre-tokenizer Metaspace alone, got {str(document.get('normalizer'))[:80]} and "
                         f"{str(metaspace)[:80]}")
    scheme = "never" if metaspace.get("add_prefix_space") is False else metaspace.get("prepend_scheme", "always")
    prefixes = {theirs: ours for ours, theirs in _METASPACE.items()}
    if metaspace.get("replacement") != MARK or scheme not in list(prefixes):
        raise ValueError("pre_tokenizer: expected ▁ as replacement and always, first or never as prepend_scheme, "
                         f"got {metaspace}")
    return Spaces(prefixes[scheme], split=metaspace.get("split", True) is not False, drop_first=drop_first)


def _reads_decoder(decoder):
    """Whether decoding leaves out the first space. Raises ValueError where it does anything else than is usual."""
    steps = _steps(decoder, "decoders")
    usual = [_TO_SPACES, {"type": "ByteFallback"}, {"type": "Fuse"}]
    if steps not in (usual, [*usual, _DROP_FIRST]):
        raise ValueError("decoder: expected the sequence Replace ▁ by ' ', ByteFallback, Fuse and at most Strip of one "
                         f"space at the start, got {str(decoder)[:200]}")
    return len(steps) > len(usual)


def _steps(part, key):
    """The steps of a sequence, or the one that there is, or none."""
    if part is None:
        return []
    steps = part.get(key) if isinstance(part, dict) and part.get("type") == "Sequence" else [part]
    return steps if isinstance(steps, list) else [steps]
