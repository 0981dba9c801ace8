"""The older pair of files of a byte-level tokenizer: vocab.json and merges.txt, or encoder.json and vocab.bpe.

The first has the pieces, in printable characters, with their ids; the second one merge a line, "left right", in the
order of their ranks, after a line that begins with "#version". GPT-2 was published as encoder.json and vocab.bpe. How
a text is cut into words is in neither: the tokenizer_config.json beside names the class, and the class implies it.
"""

import json
from pathlib import Path

from tinyllama.tokenizers import patterns
from tinyllama.tokenizers.bpe import BytePairTokenizer
from tinyllama.tokenizers.files import CONFIG_FILE, config_beside

PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
CLASSES = {"GPT2Tokenizer": patterns.GPT2, "Qwen2Tokenizer": patterns.QWEN2}

_ADDED_KEYS = ("content", "special", "lstrip", "rstrip", "single_word", "normalized")
_END_OF_TEXT = "<|endoftext|>"          # the one special token of GPT-2, which begins a text and ends it


def gpt2_pair(path):
    """The two files that `path` means, which is the first of them or their folder; None where there is no such pair."""
    for names in PAIRS:
        folder = Path(path).parent if Path(path).name == names[0] else Path(path)
        files = [folder / name for name in names]
        if all(file.is_file() for file in files):
            return files
    return None


def read_gpt2_pair(path):
    """The tokenizer in such a pair of files. Raises ValueError where they do not describe one."""
    vocab_file, merges_file = gpt2_pair(path)
    vocab, merges, config = _vocab(vocab_file), _merges(merges_file), config_beside(vocab_file)
    kind = config.get("tokenizer_class", "GPT2Tokenizer").removesuffix("Fast")
    if kind not in CLASSES:
        raise ValueError(f"{vocab_file.with_name(CONFIG_FILE)}: expected the tokenizer_class {' or '.join(CLASSES)}, "
                         f"got {kind!r}")
    ours = None
    if not config and _END_OF_TEXT in vocab:
        ours = {"bos_token_id": vocab[_END_OF_TEXT], "eos_token_id": vocab[_END_OF_TEXT]}
    document = {
        "model": {"type": "BPE", "vocab": vocab, "merges": merges, "tinyllama": ours},
        "added_tokens": _added_tokens(config, vocab, merges), "decoder": {"type": "ByteLevel"},
        "normalizer": {"type": "NFC"} if CLASSES[kind].normalization else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            *({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
              for pattern in CLASSES[kind].patterns), {"type": "ByteLevel", "use_regex": False}]},
    }
    tokenizer = BytePairTokenizer.from_document(document, vocab_file)
    tokenizer.adds_bos = bool(config.get("add_bos_token")) and tokenizer.bos_token_id is not None
    return tokenizer


def _vocab(file):
    try:
        vocab = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: expected a vocabulary as JSON, got a file that is not JSON or was cut short "
                         f"({error})") from error
    if not isinstance(vocab, dict) or not all(type(token) is int for token in vocab.values()):
        raise ValueError(f"{file}: expected a JSON object of pieces and their ids, got {str(vocab)[:40]}")
    return vocab


def _merges(file):
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: expected a text in UTF-8, got something else ({error})") from error
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    for number, merge in enumerate(merges):
        if len(merge) != 2:
            raise ValueError(f"{file}: expected two pieces a line, got {' '.join(merge)[:80]!r} as merge {number}")
    return merges


def _added_tokens(config, vocab, merges):
    """The entries of added_tokens: those of the configuration, and what is in the vocabulary and no merge makes."""
    entries = config.get("added_tokens_decoder", {})
    if not isinstance(entries, dict) or not all(
            token.isdecimal() and isinstance(entry, dict) for token, entry in entries.items()):
        raise ValueError(f"{CONFIG_FILE}: expected added_tokens_decoder to map ids to JSON objects, "
                         f"got {str(entries)[:80]}")
    added = [{"id": int(token)} | {key: entry.get(key) for key in _ADDED_KEYS} for token, entry in entries.items()]
    named = {entry["content"] for entry in added}
    made = {left + right for left, right in merges}
    return added + [{"id": token, "content": text, "special": True} for text, token in vocab.items()
                    if len(text) > 1 and text not in made and text not in named]
