"""From text to tokens and back.

    tokenizer = CharacterTokenizer.train(text)
    ids = tokenizer.encode("To be, or not to be")
    text = tokenizer.decode(ids)

A tokenizer has `vocab_size`, `encode(text, bos=False) -> list[int]`, `encode_to_array(text)` for long texts,
`decode(ids) -> str`, `save(path)`, and `bos_token_id` and `eos_token_id`, which are None where it has no such token.
"""

from tinyllama.tokenizers.characters import CharacterTokenizer
from tinyllama.tokenizers.files import expect, read_document

_KINDS = {CharacterTokenizer.TYPE: CharacterTokenizer}

__all__ = ["CharacterTokenizer", "load_tokenizer"]


def load_tokenizer(path):
    """The tokenizer in a file, or in tokenizer.json where `path` is a directory.

    Raises FileNotFoundError where there is none, and ValueError where the file is not a tokenizer that tinyllama saved.
    """
    document = read_document(path)
    expect(path, document, "type", list(_KINDS))
    return _KINDS[document["type"]].from_document(document, path)
