"""Write `tests/golden/bpe.json`: what the library `tokenizers` makes of the texts in `bpe_cases`.

With it the comparison runs where the library is not installed. Run by hand, after a text was added or changed:

    PYTHONPATH=tests/support python tests/golden/make_bpe.py
"""

import json
from pathlib import Path

from bpe_cases import ENCODING, TRAINING
from bpe_library import train

GOLDEN = Path(__file__).with_name("bpe.json")
PIECES = 258 + 150
EVERYTHING = [document for documents in TRAINING.values() for document in documents]


def write():
    merges = {name: json.loads(train(documents, PIECES).to_str())["model"]["merges"]
              for name, documents in TRAINING.items()}
    tokenizer = train(EVERYTHING, PIECES)
    golden = {"merges": {name: [" ".join(merge) for merge in pairs] for name, pairs in merges.items()},
              "tokenizer": json.loads(tokenizer.to_str()),
              "ids": {text: tokenizer.encode(text, add_special_tokens=False).ids for text in ENCODING},
              "safe": {text: _safe(tokenizer).encode(text).ids for text in ENCODING}}
    GOLDEN.write_text(json.dumps(golden, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    print(f"{GOLDEN}: {len(merges)} trainings, {len(ENCODING)} texts, {GOLDEN.stat().st_size / 1000:.0f} kB")


def _safe(tokenizer):
    """The same tokenizer without special tokens: their names are text like any other."""
    from tokenizers import Tokenizer
    document = json.loads(tokenizer.to_str())
    return Tokenizer.from_str(json.dumps(document | {"added_tokens": []}))


if __name__ == "__main__":
    write()
