"""The models that are measured, each with the batch of a training step."""

from typing import NamedTuple

from tinyllama.models import LlamaConfig


class Size(NamedTuple):
    """A LLaMA with tied embeddings and as many key heads as query heads, and the batch that it is trained on."""

    name: str
    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    vocab_size: int
    batch_size: int
    context: int

    @property
    def tokens(self):
        """How many tokens a training step sees."""
        return self.batch_size * self.context

    @property
    def config(self):
        """The `LlamaConfig` of the model."""
        return LlamaConfig(
            vocab_size=self.vocab_size, hidden_size=self.hidden_size, intermediate_size=self.intermediate_size,
            num_hidden_layers=self.layers, num_attention_heads=self.heads, max_position_embeddings=self.context,
            tie_word_embeddings=True)


# 15M and 110M have the sizes of two models of llama2.c, whose decoding is often measured.
SIZES = {size.name: size for size in (
    Size("nano", 128, 4, 4, 344, 65, 12, 64),
    Size("char", 192, 6, 6, 512, 256, 32, 128),
    Size("M", 288, 6, 6, 768, 4096, 8, 256),
    Size("L", 512, 8, 8, 1376, 4096, 4, 256),
    Size("15M", 288, 6, 6, 768, 32000, 4, 256),
    Size("110M", 768, 12, 12, 2048, 32000, 1, 256),
)}


def find_size(name):
    """The size of that name. Raises ValueError where there is none."""
    if name not in SIZES:
        raise ValueError(f"size: expected one of {', '.join(map(repr, SIZES))}, got {name!r}")
    return SIZES[name]
