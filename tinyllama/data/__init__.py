"""Text to learn from, and the windows of tokens that a training step sees.

    text = read_text("shakespeare")
    train, validation = split(tokenizer.encode_to_array(text))
    inputs, targets = Batches(train, batch_size=12, context=64, seed=0).batch(step)
"""

from tinyllama.data.batches import Batches, split, validation_windows
from tinyllama.data.shakespeare import read_shakespeare
from tinyllama.data.text import read_text

__all__ = ["Batches", "read_shakespeare", "read_text", "split", "validation_windows"]
