"""From text to tokens and back.

    tokenizer = train_tokenizer(text, vocab_size=4096)      # or CharacterTokenizer.train(text), or load_tokenizer(path)
    ids = tokenizer.encode("To be, or not to be")
    text = tokenizer.decode(ids)

A tokenizer has `vocab_size`, `encode(text, bos=False) -> list[int]`, `encode_to_array(text)` for long texts,
`decode(ids) -> str`, `token_bytes(token)`, `save(path)`, `merges`, `special_tokens`, and `bos_token_id` and
`eos_token_id`, which are None where it has no such token.
"""

from tinyllama.tokenizers.bpe import BytePairTokenizer, Merge
from tinyllama.tokenizers.bpe_training import train_tokenizer
from tinyllama.tokenizers.characters import CharacterTokenizer
from tinyllama.tokenizers.loading import load_tokenizer
from tinyllama.tokenizers.sentencepiece import SentencePieceTokenizer

__all__ = ["BytePairTokenizer", "CharacterTokenizer", "Merge", "SentencePieceTokenizer", "load_tokenizer",
           "train_tokenizer"]
