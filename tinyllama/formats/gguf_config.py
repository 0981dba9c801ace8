"""What the metadata of a GGUF file say of its model, as a `LlamaConfig`. The keys are those of ggml's docs/gguf.md."""

from typing import NamedTuple

import numpy as np

from tinyllama.models import LlamaConfig
from tinyllama.ops.rope import rope_frequencies


class Architecture(NamedTuple):
    """What is particular to a "general.architecture"; all else follows from the metadata and the tensors."""

    is_interleaved: bool        # the pairing of the rows of q and k
    qk_norm: bool = False
    is_fused: bool = False      # q, k, v are one tensor, and so are gate and up


ARCHITECTURES = {               # Mistral's models are written as llama
    "llama": Architecture(is_interleaved=True),
    "qwen2": Architecture(is_interleaved=False),
    "qwen3": Architecture(is_interleaved=False, qk_norm=True),
    "phi3": Architecture(is_interleaved=False, is_fused=True),
}

# Settings that change the numbers in a way that no model here can, each with the values that change nothing.
FOREIGN = {
    "attention.causal": (True,), "attention.clamp_kqv": (0,), "attention.max_alibi_bias": (0,),
    "attention.output_scale": (), "attention.scale": (0,), "attention.shared_kv_layers": (0,),
    "attention.sliding_window_pattern": (), "attention.temperature_length": (), "attention.temperature_scale": (0,),
    "attn_logit_softcapping": (0,), "embedding_scale": (1,), "expert_count": (0,), "final_logit_softcapping": (0,),
    "logit_scale": (0, 1), "residual_scale": (1,), "rope.dimension_sections": (), "rope.scaling.attn_factor": (0, 1),
    "use_parallel_residual": (False,),
}

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
ROTATION_FACTORS, LONG_ROTATION_FACTORS = "rope_freqs.weight", "rope_factors_long.weight"

# Of Llama 3's rotation GGUF keeps only what each pair is slowed by. These are the numbers of all of Meta's models.
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}

REQUIRED = object()
TYPES = {int: ("a whole number", int), float: ("a number", (int, float)), str: ("a string", str)}


class Settings:
    """The metadata, and those of the architecture by the part of their keys that follows its name.

    Raises ValueError for an architecture that is not supported, and for settings that no model here has.
    """

    def __init__(self, metadata):
        self.metadata = metadata
        self.architecture = self.get("general.architecture", REQUIRED, str)
        require(self.architecture in ARCHITECTURES, "general.architecture", f"one of {', '.join(ARCHITECTURES)}",
                _show(self.architecture))
        parts = self.get("split.count", 0, int)
        require(parts <= 1, "split.count", "the whole model in one file, which llama.cpp's `llama-gguf-split --merge` "
                "makes of several", parts)
        for name, harmless in FOREIGN.items():
            value = metadata.get(self.key(name))
            require(value is None or (isinstance(value, int | float) and value in harmless), self.key(name),
                    "no such setting, because models here have nothing like it", _show(value))

    def key(self, name):
        """A setting of the architecture by its whole name."""
        return f"{self.architecture}.{name}"

    def own(self, name, default, kind):
        """A setting of the architecture; see `get`."""
        return self.get(self.key(name), default, kind)

    def get(self, key, default, kind):
        """A setting: an int, a float (which may be written as an int), or a str. Raises ValueError for another."""
        value = self.metadata.get(key, default)
        if value is default:
            require(value is not REQUIRED, key, "this setting", "metadata without it")
            return value
        expected, types = TYPES[kind]
        require(isinstance(value, types) and not isinstance(value, bool), key, expected, _show(value))
        return _as_written(value) if kind is float else value


def read_config(settings, shapes, factors):
    """The `LlamaConfig` of a file.

    shapes: {GGUF's name: shape} of its tensors. factors: the tensor `rope_freqs.weight`, or None. Raises ValueError for
    a setting that is missing or wrong. Whether the tensors bear the sizes out is for `check_tensors` to say.
    """
    sizes = _sizes(settings, shapes)
    theta = settings.own("rope.freq_base", 10000.0, float)
    require(LONG_ROTATION_FACTORS not in shapes, LONG_ROTATION_FACTORS,
            "no rotation of the kind longrope, because models here have nothing like it", "one")
    return LlamaConfig(
        **sizes, max_position_embeddings=settings.own("context_length", REQUIRED, int),
        rms_norm_eps=settings.own("attention.layer_norm_rms_epsilon", REQUIRED, float), rope_theta=theta,
        rope_scaling=_rope_scaling(settings, factors, theta, sizes["head_dim"]),
        sliding_window=settings.own("attention.sliding_window", 0, int) or None, tie_word_embeddings=HEAD not in shapes,
        attention_bias="blk.0.attn_q.bias" in shapes, attention_output_bias="blk.0.attn_output.bias" in shapes,
        mlp_bias="blk.0.ffn_down.bias" in shapes, qk_norm=ARCHITECTURES[settings.architecture].qk_norm,
        **_special_tokens(settings))


def _sizes(settings, shapes):
    """The sizes of the model, by Hugging Face's names."""
    hidden, heads = (settings.own(name, REQUIRED, int) for name in ("embedding_length", "attention.head_count"))
    require(heads >= 1, settings.key("attention.head_count"), "at least 1", heads)
    head_dim = settings.own("attention.key_length", hidden // heads, int)
    for name in ("attention.value_length", "rope.dimension_count"):
        size = settings.own(name, head_dim, int)
        require(size == head_dim, settings.key(name), f"{head_dim}, the size of a head", size)
    require(len(shapes.get(EMBEDDING, ())) == 2, EMBEDDING, "a matrix", shapes.get(EMBEDDING, "no such tensor"))
    return {
        "vocab_size": shapes[EMBEDDING][0], "hidden_size": hidden,
        "intermediate_size": settings.own("feed_forward_length", REQUIRED, int),
        "num_hidden_layers": settings.own("block_count", REQUIRED, int), "num_attention_heads": heads,
        "num_key_value_heads": settings.own("attention.head_count_kv", heads, int), "head_dim": head_dim,
    }


def _special_tokens(settings):
    """The tokens before and after a text. llama.cpp ends one at the end of a turn (eot) as well as at eos."""
    bos, eos, turn = (settings.get(f"tokenizer.ggml.{name}_token_id", None, int) for name in ("bos", "eos", "eot"))
    ends = tuple(dict.fromkeys(token for token in (eos, turn) if token is not None))
    return {"bos_token_id": bos, "eos_token_id": ends[0] if len(ends) == 1 else ends or None}


def _rope_scaling(settings, factors, theta, head_dim):
    """The scaling of the rotation, or None: from the metadata, or from what each pair is slowed by.

    As in llama.cpp, a factor without a type is linear, and a factor of 0 is none; `scale_linear` is its older name.
    """
    kind = settings.own("rope.scaling.type", "linear", str)
    require(kind in ("none", "linear"), settings.key("rope.scaling.type"), "'none' or 'linear'", _show(kind))
    factor = settings.own("rope.scaling.factor", settings.own("rope.scale_linear", 0.0, float), float)
    is_linear = kind == "linear" and factor not in (0, 1)
    if factors is None:
        return {"rope_type": "linear", "factor": factor} if is_linear else None
    require(not is_linear, ROTATION_FACTORS, "no other scaling of the rotation beside it", f"linear by {factor}")
    old = settings.own("rope.scaling.original_context_length", LLAMA3["original_max_position_embeddings"], int)
    return _llama3_scaling(factors, theta, head_dim, old)


def _llama3_scaling(tensor, theta, head_dim, old):
    """What Llama 3's config.json says, found again from the factors by which the file divides the frequencies."""
    require(tensor.shape == (head_dim // 2,), ROTATION_FACTORS, f"the shape {(head_dim // 2,)}", tensor.shape)
    with np.errstate(invalid="ignore"):         # a NaN is refused below
        factors = tensor.read().astype(np.float64)                                      # (D/2,)
    require(np.all(np.isfinite(factors)) and np.all(factors > 0), ROTATION_FACTORS, "numbers above 0",
            f"{factors[:4]} ...")
    if np.all(factors == 1):
        return None
    scaling = {**LLAMA3, "factor": _as_written(float(factors.max())), "original_max_position_embeddings": old}
    try:
        plain, scaled = (np.array(rope_frequencies(head_dim, theta=theta, scaling=kind)) for kind in (None, scaling))
    except OverflowError as error:
        raise ValueError(f"rope.freq_base: expected a number whose powers are finite, got {theta}") from error
    require(np.allclose(plain / scaled, factors, rtol=1e-5, atol=0), ROTATION_FACTORS,
            f"the factors of Llama 3, who blends between 1 and 4 turns in {old} tokens",
            f"{factors[:4]} ...")
    return scaling


def _as_written(number):
    """The shortest decimal that becomes this float32: 1e-05 for 9.999999747378752e-06."""
    if not abs(number) <= np.finfo(np.float32).max or np.float32(number) != number:
        return number
    return float(str(np.float32(number)))


def _show(value):
    """A value of the metadata as a message shows it: a damaged file may give one of a million characters."""
    if isinstance(value, str):
        return repr(value[:60])
    return value if isinstance(value, int | float | None) else f"an array of {len(value)}"


def require(holds, name, expected, got):
    """Raise ValueError unless something holds."""
    if not holds:
        raise ValueError(f"{name}: expected {expected}, got {got}")
