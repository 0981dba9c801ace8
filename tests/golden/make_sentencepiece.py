"""Write `tests/golden/sentencepiece.json`: what the libraries `sentencepiece` and `tokenizers` make of texts.

With it the comparison runs where they are not installed. The models are small and trained here. A decoded text that is
the text that was encoded is null. Run by hand, after a text or a model was changed:

    PYTHONPATH=tests/support python tests/golden/make_sentencepiece.py
"""

import json
from pathlib import Path

import numpy as np
from bpe_cases import ENCODING
from llama_json_library import ADDED, trained, with_added
from sentencepiece_library import EVERYTHING, as_text, models, opened
from tokenizers import Tokenizer
from varied_texts import varied_texts

GOLDEN = Path(__file__).with_name("sentencepiece.json")
RANDOM = 180


def write():
    texts = list(dict.fromkeys(ENCODING + EVERYTHING + varied_texts(np.random.default_rng(1), RANDOM)))
    golden = {"texts": texts, "models": {}}
    for name, data in models().items():
        library = opened(data)
        ids = [library.encode(text) for text in texts]
        decoded = map(library.decode, ids)
        golden["models"][name] = {
            "file": as_text(data), "bos_token_id": library.bos_id(), "eos_token_id": library.eos_id(),
            "ids": [" ".join(map(str, tokens)) for tokens in ids],
            "decoded": [None if after == text else after for text, after in zip(texts, decoded, strict=True)]}
    document = with_added(trained(), ADDED)
    library = Tokenizer.from_str(json.dumps(document))
    golden["json"] = {"document": document, "ids": [" ".join(map(str, library.encode(text).ids)) for text in texts]}
    GOLDEN.write_text(json.dumps(golden, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    print(f"{GOLDEN}: {len(golden['models'])} models, {len(texts)} texts, {GOLDEN.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    write()
