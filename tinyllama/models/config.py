"""The numbers that say what a LLaMA is, by the names that Hugging Face's config.json uses."""

import dataclasses
import math
import numbers
from dataclasses import dataclass
from typing import Any

from tinyllama.ops.rope import rope_frequencies

CHOICES = {
    "norm": ("rmsnorm", "layernorm"),
    "mlp": ("swiglu", "relu", "gelu"),
    "positions": ("rope", "learned", "sinusoidal", "none"),
}
POSITIVE_INTEGERS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                     "max_position_embeddings")
POSITIVE_INTEGERS_OR_NONE = ("num_key_value_heads", "head_dim", "num_unique_layers")
POSITIVE_NUMBERS = ("rms_norm_eps", "rope_theta", "initializer_range")
POSITIVE_NUMBERS_OR_NONE = ("embedding_initializer_range",)
FLAGS = ("tie_word_embeddings", "attention_bias", "mlp_bias", "qk_norm")


@dataclass(frozen=True)
class LlamaConfig:
    """The shape of a LLaMA, and the parts that a lesson may swap.

    vocab_size, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads: sizes, without defaults.
    num_key_value_heads: fewer than the query heads for grouped queries, 1 for multi-query; None is as many.
    head_dim: features of a head; None is hidden_size / num_attention_heads.
    max_position_embeddings: the context, in tokens. rope_theta, rope_scaling: see `rope_frequencies` in ops/rope.py.
    sliding_window: how many tokens back a token sees; None is all.
    eos_token_id: one token, several, or None. attention_bias: biases of q, k, v and o. mlp_bias: biases of the MLP.
    initializer_range: the standard deviation of the first weights.

    Under no name of Hugging Face's: attention_output_bias (whether o has a bias; None is as `attention_bias` says),
    qk_norm (whether the heads of q and k go through an RMSNorm before they are rotated), embedding_initializer_range
    (None is as the others), norm ("rmsnorm", "layernorm"), mlp ("swiglu", "relu", "gelu"), positions ("rope",
    "learned", "sinusoidal", "none"), num_unique_layers (layer i uses the weights of layer i mod num_unique_layers;
    None: every layer has its own), dropout (of the embedding and of what each layer adds).

    Raises ValueError, naming the field, what was expected and what came.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: dict | None = None
    sliding_window: int | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    attention_output_bias: bool | None = None
    mlp_bias: bool = False
    qk_norm: bool = False
    bos_token_id: int | None = None
    eos_token_id: Any = None
    initializer_range: float = 0.02
    embedding_initializer_range: float | None = None
    norm: str = "rmsnorm"
    mlp: str = "swiglu"
    positions: str = "rope"
    num_unique_layers: int | None = None
    dropout: float = 0.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if hasattr(value, "tolist"):        # a NumPy number, which would widen float32, or an array of them
                value = value.tolist()
            if isinstance(value, list):
                value = tuple(value)
            object.__setattr__(self, field.name, value)
        self._check_each_field()
        self._fill_in()
        self._check_that_they_fit()

    def _check_each_field(self):
        for name in (*POSITIVE_INTEGERS, *POSITIVE_INTEGERS_OR_NONE):
            value = getattr(self, name)
            _require(_is_positive_integer(value) or (value is None and name in POSITIVE_INTEGERS_OR_NONE),
                     name, "a whole number of at least 1", value)
        for name in (*POSITIVE_NUMBERS, *POSITIVE_NUMBERS_OR_NONE):
            value = getattr(self, name)
            _require((isinstance(value, numbers.Real) and value > 0 and math.isfinite(value))
                     or (value is None and name in POSITIVE_NUMBERS_OR_NONE), name, "a number above 0", value)
        for name, choices in CHOICES.items():
            expected = f"one of {', '.join(map(repr, choices))}"
            _require(getattr(self, name) in choices, name, expected, getattr(self, name))
        for name in FLAGS:
            _require(isinstance(getattr(self, name), bool), name, "True or False", getattr(self, name))
        _require(isinstance(self.attention_output_bias, bool | None), "attention_output_bias", "True, False or None",
                 self.attention_output_bias)
        _require(isinstance(self.dropout, numbers.Real) and 0 <= self.dropout < 1, "dropout", "0 <= dropout < 1",
                 self.dropout)
        _require(self.sliding_window is None or _is_positive_integer(self.sliding_window), "sliding_window",
                 "at least 1, or None", self.sliding_window)
        _require(self.rope_scaling is None or isinstance(self.rope_scaling, dict), "rope_scaling",
                 "a dictionary, or None", self.rope_scaling)
        for token in (self.bos_token_id, *self.end_tokens):
            is_token = isinstance(token, numbers.Integral) and not isinstance(token, bool)
            _require(token is None or (is_token and 0 <= token < self.vocab_size),
                     "bos_token_id or eos_token_id", f"a token from 0 to {self.vocab_size - 1}", token)

    def _fill_in(self):
        """Replace each None that stands for "as usual" by what is usual."""
        if self.head_dim is None:
            _require(self.hidden_size % self.num_attention_heads == 0, "num_attention_heads",
                     f"a divisor of hidden_size={self.hidden_size}, or a head_dim", self.num_attention_heads)
        usual = {
            "num_key_value_heads": self.num_attention_heads,
            "head_dim": self.hidden_size // self.num_attention_heads,
            "num_unique_layers": self.num_hidden_layers,
            "embedding_initializer_range": self.initializer_range,
            "attention_output_bias": self.attention_bias,
        }
        for name, value in usual.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def _check_that_they_fit(self):
        _require(self.num_attention_heads % self.num_key_value_heads == 0, "num_key_value_heads",
                 f"a divisor of num_attention_heads={self.num_attention_heads}", self.num_key_value_heads)
        _require(self.num_unique_layers <= self.num_hidden_layers, "num_unique_layers",
                 f"at most num_hidden_layers={self.num_hidden_layers}", self.num_unique_layers)
        if self.positions == "rope":
            _require(self.head_dim % 2 == 0, "head_dim", "an even number for rotary positions", self.head_dim)
            rope_frequencies(2, theta=self.rope_theta, scaling=self.rope_scaling)       # raises where it cannot be
        if self.positions == "sinusoidal":
            _require(self.hidden_size % 2 == 0, "hidden_size", "an even number for sinusoidal positions",
                     self.hidden_size)

    @property
    def end_tokens(self):
        """The tokens that end a text, as a tuple: none, one or several."""
        if self.eos_token_id is None:
            return ()
        return self.eos_token_id if isinstance(self.eos_token_id, tuple) else (self.eos_token_id,)

    @classmethod
    def from_dict(cls, settings):
        """A configuration from what `to_dict` gives. Files of Hugging Face are read by formats/architectures.py.

        Raises ValueError for another kind of model, for a key that is missing, and for one that is no field.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        settings = dict(settings)
        kind = settings.pop("model_type", None)
        _require(kind == "tinyllama", "model_type", "'tinyllama'", kind)
        missing = [name for name, field in fields.items()
                   if field.default is dataclasses.MISSING and name not in settings]
        _require(not missing, "config", f"the keys {', '.join(fields)}", f"no {', '.join(missing)}")
        unknown = [name for name in settings if name not in fields]
        _require(not unknown, "config", f"the keys {', '.join(fields)}", ", ".join(unknown))
        return cls(**settings)

    def to_dict(self):
        """Every field by its name, as JSON can hold it, and "model_type": "tinyllama"."""
        return {"model_type": "tinyllama", **dataclasses.asdict(self)}


def _is_positive_integer(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= 1


def _require(holds, name, expected, got):
    if not holds:
        raise ValueError(f"{name}: expected {expected}, got {got!r}")
