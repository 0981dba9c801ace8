"""Text to learn from, and the rows of tokens that a training step sees.

    train, validation = split_corpus(read_corpus("shakespeare"))
    tokens = tokenize(train.documents, tokenizer)
    ids, targets, documents = WindowBatches(tokens, batch_size=12, context=64, seed=0).batch(step)
"""

from tinyllama.data.batches import (
    Batch,
    PackedBatches,
    WindowBatches,
    are_short,
    first_documents,
    packed_batches,
    validation_windows,
)
from tinyllama.data.corpus import Corpus, read_corpus, read_text, split_corpus
from tinyllama.data.stories import entropy_per_token, is_story, parse_story, story, story_entropy
from tinyllama.data.tokens import Tokens, tokenize

__all__ = ["Batch", "Corpus", "PackedBatches", "Tokens", "WindowBatches", "are_short", "entropy_per_token",
           "first_documents", "is_story", "packed_batches", "parse_story", "read_corpus", "read_text", "split_corpus",
           "story", "story_entropy", "tokenize", "validation_windows"]
