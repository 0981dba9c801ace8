"""The library `tokenizers` set up as Llama's tokenizer.json is: BPE with byte fallback, spaces as ▁."""

import json

from bpe_cases import TRAINING
from sentencepiece_files import BYTES

EVERYTHING = [document for documents in TRAINING.values() for document in documents]
NAMES = ["<unk>", "<s>", "</s>"]
TO_MARKS = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
PREPEND = {"type": "Prepend", "prepend": "▁"}
ADDED = [
    {"content": "<user>", "special": True}, {"content": "<use", "special": False, "rstrip": True},
    {"content": "</div>", "special": False, "lstrip": True, "rstrip": True}, {"content": "the", "single_word": True},
    {"content": "ing", "normalized": True}, {"content": "@@", "special": True, "normalized": True, "lstrip": True},
    {"content": "@@@", "special": True, "single_word": True}, {"content": " and", "normalized": True},
]
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}


def normalizers(*steps):
    return {"normalizer": {"type": "Sequence", "normalizers": list(steps)}, "pre_tokenizer": None}


def metaspace(scheme, split):
    return {"normalizer": None, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme,
                                                  "split": split}}


WAYS = {
    "prepend": normalizers(PREPEND, TO_MARKS), "marks first": normalizers(TO_MARKS, PREPEND),
    "no prefix": {"normalizer": TO_MARKS, "pre_tokenizer": None},
    **{f"metaspace {scheme}{' split' * split}": metaspace(scheme, split)
       for scheme in ("always", "first", "never") for split in (True, False)},
}


def trained(vocab_size=700):
    """The JSON document of its tokenizer, trained on the texts of `bpe_cases`."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    tokenizer.train_from_iterator(EVERYTHING, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[*NAMES, *(piece.text for piece in BYTES)], show_progress=False,
        limit_alphabet=150))
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = [entry for entry in document["added_tokens"] if entry["content"] in NAMES]
    return document


def with_added(document, added):
    """The document with more added tokens, whose ids follow, or are those that the vocabulary has for them."""
    document = json.loads(json.dumps(document))
    vocabulary = document["model"]["vocab"]
    after = len(vocabulary)
    for entry in added:
        token = vocabulary.get(entry["content"])
        document["added_tokens"].append(FLAGS | entry | {"id": after if token is None else token})
        after += token is None
    return document
