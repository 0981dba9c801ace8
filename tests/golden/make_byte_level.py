"""Write `tests/golden/byte_level.json`: what the libraries `tokenizers` and `tiktoken` make of some texts.

With it the comparisons run where the libraries are not installed. Run by hand, after a case was added or changed:

    PYTHONPATH=tests/support python tests/golden/make_byte_level.py
"""

import base64
import json
from pathlib import Path

import byte_level_cases as cases
import numpy as np

from tinyllama.tokenizers.byte_level import from_printable
from tinyllama.tokenizers.ranks import LLAMA3_SPECIAL_TOKENS

GOLDEN = Path(__file__).with_name("byte_level.json")


def write():
    texts = cases.texts(np.random.default_rng(1), 150)
    golden = {"texts": texts, "kinds": {}}
    for kind in cases.PATTERNS:
        tokenizer = cases.train(kind, cases.ADDED)
        golden["kinds"][kind] = {"tokenizer": cases.document(tokenizer),
                                 "ids": [cases.ids(tokenizer, text) for text in texts],
                                 "safe": [cases.ids(tokenizer, text, allow_special=False) for text in texts]}
    golden["ranks"] = ranks(golden["kinds"]["llama 3"]["tokenizer"], texts)
    GOLDEN.write_text(json.dumps(golden, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{GOLDEN}: {len(texts)} texts, {len(golden['kinds'])} kinds, {GOLDEN.stat().st_size / 1000:.0f} kB")


def ranks(document, texts):
    """A file in tiktoken's format with the pieces of a tokenizer, and tiktoken's tokens."""
    import tiktoken
    special = {entry["content"] for entry in document["added_tokens"]}
    pieces = [from_printable(piece) for piece in document["model"]["vocab"] if piece not in special]
    encoding = tiktoken.Encoding(
        "golden", pat_str=cases.LLAMA3_PATTERN, mergeable_ranks={piece: rank for rank, piece in enumerate(pieces)},
        special_tokens={name: len(pieces) + i for i, name in enumerate(LLAMA3_SPECIAL_TOKENS)})
    return {"file": "".join(f"{base64.b64encode(piece).decode()} {rank}\n" for rank, piece in enumerate(pieces)),
            "ids": [encoding.encode(text, allowed_special="all") for text in texts],
            "safe": [encoding.encode(text, disallowed_special=()) for text in texts]}


if __name__ == "__main__":
    write()
