"""The tokenizer.json of a byte-level BPE tokenizer, in the format of the library `tokenizers`.

Every piece is written in printable characters, one for each byte. What that format has no place for, the counts of the
merges and which special token begins a text and which ends it, lies in model -> tinyllama, where the library looks for
nothing.
"""

import regex

from tinyllama.tokenizers.added_tokens import AddedToken
from tinyllama.tokenizers.byte_level import GPT2_PATTERN, from_printable, printable, word_finder
from tinyllama.tokenizers.files import token_names_beside


def to_document(tokenizer):
    """The JSON document of a tokenizer."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": token.token, "content": token.text, "single_word": token.single_word,
                          "lstrip": token.left_strip, "rstrip": token.right_strip, "normalized": token.normalized,
                          "special": token.special} for token in tokenizer.added_tokens],
        "normalizer": {"type": tokenizer.normalization} if tokenizer.normalization else None,
        "pre_tokenizer": _pre_tokenizer(tokenizer.patterns, byte_level),
        "post_processor": _post_processor(tokenizer), "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": tokenizer.whole_words,
            "vocab": _vocab(tokenizer.vocabulary),
            # no piece holds a space, so "left right" is clear, and every version of the library reads it
            "merges": [f"{printable(merge.left)} {printable(merge.right)}" for merge in tokenizer.merges],
            "tinyllama": {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
                          "counts": tokenizer.counts}
                         | ({} if tokenizer.adds_bos is None else {"adds_bos": tokenizer.adds_bos}),
        },
    }


def _vocab(vocabulary):
    """{printable text: token} up to the last piece; the library numbers the added tokens after it on its own."""
    size = max((token for token, piece in enumerate(vocabulary) if isinstance(piece, bytes)), default=-1) + 1
    return {piece if isinstance(piece, str) else printable(piece): token
            for token, piece in enumerate(vocabulary[:size])}


def read_parts(document, path):
    """What a `BytePairTokenizer` is made of, from the document of such a tokenizer, ours or not.

    Which token begins a text and which ends it is not in a foreign file. The file tokenizer_config.json tells, where it
    lies beside, and else the post-processor, which may put a token before every text.
    Raises ValueError where the document holds something else, or something that is not supported here.
    """
    model = _object(document, "model")
    _refuse(document, truncation=[None], padding=[None])
    _refuse(model, type=["BPE", None], dropout=[None, 0.0], continuing_subword_prefix=[None, ""],
            end_of_word_suffix=[None, ""])
    if _object(document, "decoder").get("type") != "ByteLevel":
        raise ValueError(f"decoder: expected the type ByteLevel, got {document['decoder'].get('type')!r}")
    added = _added_tokens(document.get("added_tokens") or [])
    merges = _merges(model.get("merges"))
    vocabulary = _vocabulary(_object(model, "vocab"), added, merges)
    ours = model.get("tinyllama")
    if ours is None:
        first = _first_token(document.get("post_processor"), vocabulary)
        ours = {"bos_token_id": first} | _names_beside(path, vocabulary)
        ours["adds_bos"] = first is not None and first == ours["bos_token_id"]
    elif not isinstance(ours, dict):
        raise ValueError(f"tinyllama: expected a JSON object, got {ours!r}")
    return {
        "vocabulary": vocabulary, "merges": merges, "counts": _counts(ours.get("counts")),
        "bos_token_id": ours.get("bos_token_id"), "eos_token_id": ours.get("eos_token_id"),
        "patterns": _patterns(_object(document, "pre_tokenizer")), "whole_words": bool(model.get("ignore_merges")),
        "added_tokens": added, "normalization": _normalization(document.get("normalizer")),
        "adds_bos": ours.get("adds_bos"),
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


def _added_tokens(entries):
    """[AddedToken], from the entries of added_tokens."""
    if not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
        raise ValueError(f"added_tokens: expected a list of JSON objects, got {str(entries)[:40]}")
    for entry in entries:
        if not isinstance(entry.get("content"), str):
            raise ValueError(f"added_tokens: expected a text as content, got {entry.get('content')!r}")
    keys = ("special", "lstrip", "rstrip", "single_word", "normalized")
    return [AddedToken(entry["content"], entry.get("id"), *(bool(entry.get(key)) for key in keys)) for entry in entries]


def _vocabulary(vocab, added, merges):
    """The pieces by token: bytes, and str for the added tokens that no merge makes or needs."""
    tokens = vocab | {token.text: token.token for token in added}
    if sorted(tokens.values(), key=str) != sorted(range(len(tokens)), key=str):
        raise ValueError(f"vocab: expected the ids 0 to {len(tokens) - 1}, each once, got others")
    pieces = {piece for left, right in merges for piece in (left, right, left + right)}
    names = {token.text for token in added
             if token.text not in vocab or (len(token.text) > 1 and token.text.encode() not in pieces)}
    return [text if text in names else from_printable(text) for text in sorted(tokens, key=tokens.__getitem__)]


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
    names = token_names_beside(path)
    return {f"{key}_id": vocabulary.index(names[key]) for key in ("bos_token", "eos_token")
            if names.get(key) in vocabulary}


def _normalization(normalizer):
    """"NFC" or None."""
    steps = [normalizer] if normalizer is not None else []
    if isinstance(normalizer, dict) and normalizer.get("type") == "Sequence":
        steps = normalizer.get("normalizers")
    if steps == []:
        return None
    if steps != [{"type": "NFC"}]:
        _refuse({"normalizer": normalizer}, normalizer=[None, "NFC"])
    return "NFC"


def _post_processor(tokenizer):
    """What puts the first token before every text, in the words of the library."""
    if not tokenizer.adds_bos:
        return None
    name, token = tokenizer.vocabulary[tokenizer.bos_token_id], tokenizer.bos_token_id
    first, text, pair = ({"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                         [{"SpecialToken": {"id": name, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}])
    return {"type": "TemplateProcessing", "single": [first, text], "pair": [first, text, *pair],
            "special_tokens": {name: {"id": name, "ids": [token], "tokens": [name]}}}


def _first_token(processor, vocabulary):
    """The token that a post-processor puts before every text, or None. Only that, or nothing, may be its work."""
    if processor is None or (isinstance(processor, dict) and processor.get("type") == "ByteLevel"):
        return None             # the latter moves offsets, not tokens
    if not isinstance(processor, dict):
        raise ValueError(f"post_processor: expected a JSON object, got {str(processor)[:40]}")
    if processor.get("type") == "Sequence" and isinstance(processor.get("processors"), list):
        firsts = [_first_token(step, vocabulary) for step in processor["processors"]]
        firsts = [first for first in firsts if first is not None]
        if len(firsts) < 2:
            return firsts[0] if firsts else None
    single = processor.get("single")
    if processor.get("type") == "TemplateProcessing" and isinstance(single, list) and \
            all(isinstance(step, dict) and len(step) == 1 for step in single):
        names = [next(iter(step.values())) for step in single]
        kinds = [next(iter(step)) for step in single]
        if kinds == ["Sequence"]:
            return None
        if kinds == ["SpecialToken", "Sequence"] and isinstance(names[0], dict) and names[0].get("id") in vocabulary:
            return vocabulary.index(names[0]["id"])
    raise ValueError("post_processor: expected ByteLevel, or TemplateProcessing with at most one special token before "
                     f"the text and none after it, got {str(processor)[:200]}")


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
    # Phi-4's: keep what the pattern matches, drop the rest. The pattern matches everything, and here nothing is dropped
    isolates = step.get("behavior") == "Isolated" or (step.get("behavior") == "Removed" and step.get("invert"))
    if kind != "Split" or not isolates or not isinstance(pattern, dict):
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
