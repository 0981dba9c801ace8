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
# What transformers means where a Llama's config.json leaves these out; it differs from our own defaults.
HUGGING_FACE_DEFAULTS = {"rms_norm_eps": 1e-6, "bos_token_id": 1, "eos_token_id": 2}
FLAGS = ("tie_word_embeddings", "attention_bias", "mlp_bias")


@dataclass(frozen=True)
class LlamaConfig:
    """The shape of a LLaMA, and the parts that a lesson may swap.

    vocab_size, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads: sizes, without defaults.
    num_key_value_heads: fewer than the query heads for grouped queries, 1 for multi-query; None is as many.
    head_dim: features of a head; None is hidden_size / num_attention_heads.
    max_position_embeddings: the context, in tokens. rope_theta, rope_scaling: see `rope_frequencies` in ops/rope.py.
    sliding_window: how many tokens back a token sees; None is all.
    eos_token_id: one token, several, or None. attention_bias: biases of q, k, v and o. mlp_bias: biases of the MLP.
    initializer_range: the standard deviation of the first weights; embedding_initializer_range: that of the embedding,
    None for the same.

    Not in Hugging Face's files: norm ("rmsnorm", "layernorm"), mlp ("swiglu", "relu", "gelu"), positions ("rope",
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
    mlp_bias: bool = False
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
        _require(isinstance(self.dropout, numbers.Real) and 0 <= self.dropout < 1, "dropout", "0 <= dropout < 1",
                 self.dropout)
        _require(self.sliding_window is None or _is_positive_integer(self.sliding_window), "sliding_window",
                 "at least 1, or None", self.sliding_window)
        _require(self.rope_scaling is None or isinstance(self.rope_scaling, dict), "rope_scaling",
                 "a dictionary, or None", self.rope_scaling)
        for token in (self.bos_token_id, *self.end_tokens):
            _require(token is None or (isinstance(token, numbers.Integral) and 0 <= token < self.vocab_size),
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

    @property
    def is_plain_llama(self):
        """Whether Hugging Face's Llama has the same parts."""
        return (self.norm, self.mlp, self.positions) == ("rmsnorm", "swiglu", "rope") and \
            self.num_unique_layers == self.num_hidden_layers and self.sliding_window is None

    @classmethod
    def from_dict(cls, settings):
        """A configuration from the contents of a config.json, Hugging Face's or ours.

        Reads the older spelling of the rotation (`rope_theta` and `rope_scaling`) and the newer (`rope_parameters`).
        Keys that do not change the numbers are ignored. Raises ValueError for another kind of model, or for a key that
        is missing.
        """
        kind = settings.get("model_type", "tinyllama")
        _require(kind in ("llama", "tinyllama"), "model_type", "'llama' or 'tinyllama'", kind)
        _require(settings.get("hidden_act", "silu") == "silu", "hidden_act", "'silu'", settings.get("hidden_act"))
        chosen = dict(HUGGING_FACE_DEFAULTS) if kind == "llama" else {}
        names = [field.name for field in dataclasses.fields(cls)]
        chosen |= {name: settings[name] for name in names if name in settings}
        rotation = settings.get("rope_parameters") or chosen.get("rope_scaling")
        if rotation:
            _require(isinstance(rotation, dict), "rope_parameters or rope_scaling", "a dictionary, or None", rotation)
            _require(rotation.get("partial_rotary_factor", 1) == 1, "partial_rotary_factor", "1",
                     rotation.get("partial_rotary_factor"))
            chosen["rope_theta"] = rotation.get("rope_theta", chosen.get("rope_theta", cls.rope_theta))
            scaling = {key: value for key, value in rotation.items()
                       if key not in ("rope_theta", "partial_rotary_factor")}
            is_plain = scaling.get("rope_type", scaling.get("type", "default")) == "default"
            chosen["rope_scaling"] = None if is_plain and not scaling.keys() - {"rope_type", "type"} else scaling
        required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
        missing = [name for name in required if name not in chosen]
        _require(not missing, "config", f"the keys {', '.join(required)}", f"no {', '.join(missing)}")
        return cls(**chosen)

    def to_dict(self):
        """The contents of a config.json that `from_dict` reads and, for a plain LLaMA, `transformers` too."""
        settings = dataclasses.asdict(self)
        if self.is_plain_llama:
            for name in ("norm", "mlp", "positions", "num_unique_layers", "sliding_window"):
                del settings[name]
            return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", **settings}
        return {"model_type": "tinyllama", **settings}


def _is_positive_integer(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= 1


def _require(holds, name, expected, got):
    if not holds:
        raise ValueError(f"{name}: expected {expected}, got {got!r}")
