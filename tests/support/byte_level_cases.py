"""Byte-level tokenizers like those of real models, made with the library `tokenizers`, and texts to compare them on."""

import json
import unicodedata

from bpe_cases import TRAINING
from varied_texts import PARTS, varied_texts

from tinyllama.tokenizers.patterns import LLAMA3_PATTERN, QWEN2_PATTERN

NAMES = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool>", "<|im_", "hello", "Straße", "ﬁ", "[", "]"]
CONTRACTIONS = ["it's", "IT'S", "we'LL", "'ſ", "I'M", "'re'd", "don't", "١٢٣٤", "12345", "½", "Ⅷ", "\x85", "\u2028",
                "\x1c", " \n ", "\u1680", "\v", "\f", "_", "café", "cafe\u0301", "\u1100\u1161\u11a8", "\u0344"]
PATTERNS = {"gpt-2": None, "llama 3": LLAMA3_PATTERN, "qwen2": QWEN2_PATTERN, "smollm": None, "phi-4": LLAMA3_PATTERN}
VOCABULARY = 1100

# text, special, lstrip, rstrip, single_word, normalized
ADDED = [("<|im_start|>", True, False, False, False, False), ("<|im_end|>", True, False, True, False, False),
         ("<tool>", False, True, True, False, False), ("hello", False, False, False, True, True),
         ("Straße", False, False, False, True, False), ("<|im_", False, False, False, False, False),
         ("cafe\u0301", False, True, False, False, True), ("@@@", True, False, False, False, True),
         ("A\u030a", False, False, False, False, False)]
BLANKS = [("  ", False, False, False, False, False), ("    ", False, False, False, False, True),
          ("\n\n", False, False, False, False, False)]


def texts(rng, number):
    """Varied texts with names of tokens among them, of characters that this Python's Unicode knows."""
    known = []
    while len(known) < number:
        for text in varied_texts(rng, number):
            for _ in range(int(rng.integers(0, 4))):
                parts = (NAMES, CONTRACTIONS, PARTS)[int(rng.integers(3))]
                at = int(rng.integers(0, len(text) + 1))
                text = text[:at] + parts[int(rng.integers(len(parts)))] + text[at:]
            # which of them are letters, and how they compose, changes with every Unicode
            if all(unicodedata.category(character) != "Cn" for character in text):
                known.append(text)
    return known[:number]


def train(kind, added=(), ignore_merges=False):
    """The library's tokenizer of a kind in PATTERNS, trained on texts full of ties."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=PATTERNS[kind] is None)
    if kind == "smollm":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), by_bytes])
    elif PATTERNS[kind] is None:
        tokenizer.pre_tokenizer = by_bytes
    else:
        keep = {"behavior": "removed", "invert": True} if kind == "phi-4" else {"behavior": "isolated"}
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(PATTERNS[kind]), **keep), by_bytes])
    if kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    documents = [document for documents in TRAINING.values() for document in documents] + PARTS + CONTRACTIONS
    tokenizer.train_from_iterator(documents, trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.add_tokens([AddedToken(text, special=special, lstrip=lstrip, rstrip=rstrip, single_word=single_word,
                                     normalized=normalized)
                          for text, special, lstrip, rstrip, single_word, normalized in added])
    return tokenizer


def document(tokenizer):
    """The JSON document of one of the library's tokenizers."""
    return json.loads(tokenizer.to_str())


def ids(tokenizer, text, allow_special=True):
    """What the library makes of a text."""
    tokenizer.encode_special_tokens = not allow_special
    return tokenizer.encode(text, add_special_tokens=False).ids
