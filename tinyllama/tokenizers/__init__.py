"""From text to tokens and back.

    tokenizer = train_tokenizer(text, vocab_size=4096)      # or CharacterTokenizer.train(text)
    ids = tokenizer.encode("To be, or not to be")
    text = tokenizer.decode(ids)

A tokenizer has `vocab_size`, `encode(text, bos=False) -> list[int]`, `encode_to_array(text)` for long texts,
`decode(ids) -> str`, `token_bytes(token)`, `save(path)`, `merges`, `special_tokens`, and `bos_token_id` and
`eos_token_id`, which are None where it has no such token.
"""

from tinyllama.tokenizers.bpe import BytePairTokenizer, Merge
from tinyllama.tokenizers.bpe_training import train_tokenizer
from tinyllama.tokenizers.characters import CharacterTokenizer
from tinyllama.tokenizers.files import expect, read_document

_KINDS = {CharacterTokenizer.TYPE: CharacterTokenizer}

__all__ = ["BytePairTokenizer", "CharacterTokenizer", "Merge", "load_tokenizer", "train_tokenizer"]


def load_tokenizer(path):
    """The tokenizer in a file, or in tokenizer.json where `path` is a directory.

    Reads what tinyllama saved, and any byte-level BPE tokenizer that the library `tokenizers` saved. Raises
    FileNotFoundError where there is no file, and ValueError where it holds something else.
    """
    document = read_document(path)
    if "model" in document:
        return BytePairTokenizer.from_document(document, path)
    expect(path, document, "type", list(_KINDS))
    return _KINDS[document["type"]].from_document(document, path)
