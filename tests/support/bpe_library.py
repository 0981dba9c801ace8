"""The library `tokenizers` set up as byte-level BPE: the other side of every comparison."""

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"


def train(documents, vocab_size):
    """Its tokenizer, trained on the same documents, with the same special tokens and the whole alphabet of bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(documents, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[BOS, EOS], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    return tokenizer
