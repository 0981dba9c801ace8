"""The tokenizer.json of a byte-level BPE tokenizer, in the format of the library `tokenizers`.

Every piece is written in printable characters, one for each byte. What that format has no place for, the counts of the
merges and which special token begins a text and which ends it, lies in model -> tinyllama, where the library looks for
nothing.
"""

import json
from pathlib import Path

import regex

from tinyllama.tokenizers.byte_level import GPT2_PATTERN, from_printable, printable, word_finder

CONFIG_FILE = "tokenizer_config.json"


def to_document(tokenizer):
    """The JSON document of a tokenizer."""
    vocabulary = {piece if isinstance(piece, str) else printable(piece): token
                  for token, piece in enumerate(tokenizer.vocabulary)}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": token, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for text, token in tokenizer.special_tokens.items()],
        "normalizer": None, "pre_tokenizer": _pre_tokenizer(tokenizer.patterns, byte_level),
        "post_processor": None, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": tokenizer.whole_words,
            "vocab": vocabulary,
            # no piece holds a space, so "left right" is clear, and every version of the library reads it
            "merges": [f"{printable(merge.left)} {printable(merge.right)}" for merge in tokenizer.merges],
            "tinyllama": {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
                          "counts": tokenizer.counts},
        },
    }


def read_parts(document, path):
    """What a `BytePairTokenizer` is made of, from the document of such a tokenizer, ours or not.

    Which token begins a text and which ends it is not in a foreign file. The file tokenizer_config.json tells, where it
    lies beside. Raises ValueError where the document holds something else, or something that is not supported here.
    """
    model = _object(document, "model")
    _refuse(document, normalizer=[None], truncation=[None], padding=[None])
    _refuse(model, type=["BPE", None], dropout=[None, 0.0], continuing_subword_prefix=[None, ""],
            end_of_word_suffix=[None, ""])
    if _object(document, "decoder").get("type") != "ByteLevel":
        raise ValueError(f"decoder: expected the type ByteLevel, got {document['decoder'].get('type')!r}")
    vocabulary = _vocabulary(_object(model, "vocab"), document.get("added_tokens") or [])
    ours = model.get("tinyllama")
    if ours is None:
        ours = _names_beside(path, vocabulary)
    elif not isinstance(ours, dict):
        raise ValueError(f"tinyllama: expected a JSON object, got {ours!r}")
    return {
        "vocabulary": vocabulary, "merges": _merges(model.get("merges")), "counts": _counts(ours.get("counts")),
        "bos_token_id": ours.get("bos_token_id"), "eos_token_id": ours.get("eos_token_id"),
        "patterns": _patterns(_object(document, "pre_tokenizer")), "whole_words": bool(model.get("ignore_merges")),
    }


def _object(parent, key):
    value = parent.get(key)
    if not isinstance(value, dict):
        raise ValueError(f"{key}: expected a JSON object, got {str(value)[:40]}")
    return value


def _refuse(parent, **supported):
    """Raise ValueError unless each of the keys is absent or has one of the values that are supported."""
    for key, values in supported.items():
        value = parent.get(key)
        if value not in values:
            kind = value.get("type", "an object") if isinstance(value, dict) else value
            choices = " or ".join(repr(value) for value in values)
            raise ValueError(f"{key}: expected {choices}, which is all that is supported here, got {kind!r}")


def _vocabulary(vocab, added):
    """The pieces by token: bytes, and str for the special ones, which are those in `added`."""
    if not (isinstance(added, list) and all(isinstance(entry, dict) for entry in added)):
        raise ValueError(f"added_tokens: expected a list of JSON objects, got {str(added)[:40]}")
    for entry in added:
        _refuse(entry, lstrip=[False, None], rstrip=[False, None], single_word=[False, None])
        if not isinstance(entry.get("content"), str):
            raise ValueError(f"added_tokens: expected a text as content, got {entry.get('content')!r}")
    special = {entry["content"]: entry.get("id") for entry in added}
    tokens = vocab | special
    if sorted(tokens.values(), key=str) != sorted(range(len(tokens)), key=str):
        raise ValueError(f"vocab: expected the ids 0 to {len(tokens) - 1}, each once, got others")
    return [text if text in special else from_printable(text) for text in sorted(tokens, key=tokens.__getitem__)]


def _merges(merges):
    """[(left, right)] of bytes, from "left right" or from ["left", "right"], as newer files have it."""
    if not isinstance(merges, list):
        raise ValueError(f"merges: expected a list, got {str(merges)[:40]}")
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise ValueError(f"merges: expected pairs of pieces, got {pair!r}")
    return [(from_printable(left), from_printable(right)) for left, right in pairs]


def _counts(counts):
    if counts is not None and not (isinstance(counts, list) and all(type(count) is int for count in counts)):
        raise ValueError(f"counts: expected a list of whole numbers or nothing, got {str(counts)[:40]}")
    return counts


def _names_beside(path, vocabulary):
    """The tokens that begin and end a text, by the tokenizer_config.json that lies beside a foreign file."""
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    if not (folder / CONFIG_FILE).exists():
        return {}
    try:
        config = json.loads((folder / CONFIG_FILE).read_bytes())
    except ValueError as error:
        raise ValueError(f"{CONFIG_FILE}: expected JSON, got a file that is not ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{CONFIG_FILE}: expected a JSON object, got {str(config)[:40]}")
    names = {key: config.get(key) for key in ("bos_token", "eos_token")}
    texts = {key: name.get("content") if isinstance(name, dict) else name for key, name in names.items()}
    return {f"{key}_id": vocabulary.index(text) for key, text in texts.items() if text in vocabulary}


def _pre_tokenizer(patterns, byte_level):
    """How a text is cut into words, in the words of the library."""
    if patterns == (GPT2_PATTERN,):
        return byte_level
    splits = [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
              for pattern in patterns]
    return {"type": "Sequence", "pretokenizers": [*splits, byte_level | {"use_regex": False}]}


def _patterns(pre_tokenizer):
    """The patterns that cut a text into words, from the words of the library; the bytes come last."""
    steps = pre_tokenizer.get("pretokenizers") if pre_tokenizer.get("type") == "Sequence" else [pre_tokenizer]
    if not (isinstance(steps, list) and steps and all(isinstance(step, dict) for step in steps)):
        raise ValueError(f"pre_tokenizer: expected a list of JSON objects as pretokenizers, got {str(steps)[:40]}")
    *steps, last = steps
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        raise ValueError(f"pre_tokenizer: expected ByteLevel, without add_prefix_space, in the last place, got {last}")
    return tuple(map(_pattern, steps)) + ((GPT2_PATTERN,) if last.get("use_regex", True) else ())


def _pattern(step):
    kind, pattern = step.get("type"), step.get("pattern")
    if kind == "Digits":
        return r"\p{N}" if step.get("individual_digits") else r"\p{N}+"
    if kind != "Split" or step.get("behavior") != "Isolated" or not isinstance(pattern, dict):
        raise ValueError(f"pre_tokenizer: expected Split (Isolated), Digits or ByteLevel, got {step}")
    expression = str(pattern["Regex"]) if "Regex" in pattern else regex.escape(str(pattern.get("String", "")))
    try:
        finder = word_finder(expression)
    except regex.error as error:
        raise ValueError(f"pre_tokenizer: expected a regular expression, got {expression!r} ({error})") from error
    if finder.groups or finder.fullmatch(""):
        raise ValueError("pre_tokenizer: expected a regular expression that captures no group and matches no empty "
                         f"text, got {expression!r}")
    return expression
