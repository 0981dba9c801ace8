"""The families of Hugging Face that are LLaMAs: what their config.json means, what they leave out, what is refused.

A family is a "model_type". Each gives the same keys other meanings, and other values to those that are missing; those
here are transformers' own. A key that would change the numbers in a way that no model here can is refused by name, so
that a checkpoint is either computed as it was trained or not loaded.
"""

import dataclasses
from typing import NamedTuple

from tinyllama.models import LlamaConfig

SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
# Read as they are where they stand in a file. The last two are ours; transformers keeps them and does not look at them.
SHARED = (*SIZES, "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings",
          "bos_token_id", "eos_token_id", "initializer_range", "embedding_initializer_range", "dropout")
ACTIVATIONS = ("silu", "swish")         # two names of one function
ROTATIONS = ("default", "linear", "llama3")

# Keys of other families that change the numbers, each with the values that change nothing beside None and False.
FOREIGN = {
    "attention_chunk_size": (), "attention_multiplier": (), "attn_logit_softcapping": (), "cross_layer_sharing": (),
    "embedding_multiplier": (1,), "final_logit_softcapping": (), "logit_scale": (1,), "logits_scaling": (1,),
    "no_rope_layers": (), "num_experts": (0,), "num_local_experts": (0, 1), "per_layer_config": (),
    "quantization_config": (), "query_pre_attn_scalar": (), "residual_multiplier": (1,), "use_mrope": (),
}


class Family(NamedTuple):
    """What is particular to a "model_type".

    defaults: what transformers gives to a key that is missing. settings(contents of config.json) -> fields of
    `LlamaConfig` that this family names in its own way, or fixes.
    """

    class_name: str
    defaults: dict
    settings: object


def _llama(settings):
    return {name: settings[name] for name in ("attention_bias", "mlp_bias") if name in settings}


def _mistral(settings):
    window = settings.get("sliding_window", 4096)
    kind, types = "full_attention" if window is None else "sliding_attention", settings.get("layer_types")
    _require(types is None or (isinstance(types, list) and types.count(kind) == len(types)), "layer_types",
             f"{kind!r} for all layers", types)
    return {"sliding_window": window}


def _qwen2(settings):
    return {"attention_bias": True, "attention_output_bias": False, "sliding_window": _window_of_all_layers(settings)}


def _qwen3(settings):
    _require(settings.get("head_dim", 128) is not None, "head_dim", "a whole number of at least 1", None)
    bias = {name: settings[name] for name in ("attention_bias",) if name in settings}
    return {"qk_norm": True, "sliding_window": _window_of_all_layers(settings), **bias}


def _phi3(settings):
    return {"sliding_window": settings.get("sliding_window")}


def _window_of_all_layers(settings):
    """The sliding window of Qwen's configurations, which may hold for some layers only: then they are refused."""
    layers, is_used = settings["num_hidden_layers"], settings.get("use_sliding_window", False)
    _require(isinstance(is_used, bool), "use_sliding_window", "true or false", is_used)
    window = settings.get("sliding_window", 4096) if is_used else None
    first, types = settings.get("max_window_layers", 28), settings.get("layer_types")
    if types is not None:
        is_list = isinstance(types, list) and len(types) == layers
        if is_list and types.count("sliding_attention") == layers and window is not None:
            return window
        _require(is_list and types.count("full_attention") == layers, "layer_types",
                 f"'full_attention' for all {layers} layers, or 'sliding_attention' for all and a window", types)
        return None
    _require(isinstance(first, int), "max_window_layers", "a whole number", first)
    if window is None or first >= layers:
        return None
    _require(first == 0, "max_window_layers", f"0 or at least num_hidden_layers={layers}, because here a window holds "
             "for all layers or for none", first)
    return window


_COMMON = {"rms_norm_eps": 1e-6, "max_position_embeddings": 32768}
FAMILIES = {
    "llama": Family("LlamaForCausalLM", {**_COMMON, "max_position_embeddings": 2048, "bos_token_id": 1,
                                         "eos_token_id": 2}, _llama),
    "mistral": Family("MistralForCausalLM", {**_COMMON, "max_position_embeddings": 131072, "num_key_value_heads": 8,
                                             "bos_token_id": 1, "eos_token_id": 2}, _mistral),
    "qwen2": Family("Qwen2ForCausalLM", {**_COMMON, "num_key_value_heads": 32}, _qwen2),
    "qwen3": Family("Qwen3ForCausalLM", {**_COMMON, "num_key_value_heads": 32, "head_dim": 128}, _qwen3),
    "phi3": Family("Phi3ForCausalLM", {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "bos_token_id": 1,
                                       "eos_token_id": 32000}, _phi3),
}
SUPPORTED = (*FAMILIES, "tinyllama")


# ---- reading

def read_config(settings):
    """The `LlamaConfig` of the contents of a config.json: of a family above, or ours ("tinyllama").

    Both spellings of the rotation are read: `rope_theta` and `rope_scaling`, or `rope_parameters`. Keys that do not
    change the numbers are ignored. Raises ValueError for another kind of model, naming the supported ones, for a size
    that is missing, and for a key whose value is wrong or changes the numbers in a way that no model here can.
    """
    kind = settings.get("model_type")
    _require(isinstance(kind, str) and kind in SUPPORTED, "model_type", f"one of {', '.join(SUPPORTED)}", kind)
    if kind == "tinyllama":
        return LlamaConfig.from_dict(settings)
    missing = [name for name in SIZES if name not in settings]
    _require(not missing, "config", f"the keys {', '.join(SIZES)}", f"no {', '.join(missing)}")
    _require(isinstance(settings["num_hidden_layers"], int), "num_hidden_layers", "a whole number of at least 1",
             settings["num_hidden_layers"])
    _refuse_foreign(settings)
    family = FAMILIES[kind]
    given = {name: settings[name] for name in SHARED if name in settings}
    tokens = {name: token for name, token in family.defaults.items()
              if name.endswith("_token_id") and _is_above(token, settings["vocab_size"])}
    defaults = {name: value for name, value in family.defaults.items() if name not in tokens}
    return LlamaConfig(**defaults | given | family.settings(settings) | _read_rotation(settings, given, defaults))


def _refuse_foreign(settings):
    activation = settings.get("hidden_act", "silu")
    _require(activation in ACTIVATIONS, "hidden_act", "'silu'", activation)
    for name, harmless in FOREIGN.items():
        value = settings.get(name)
        _require(value is None or value is False or (not isinstance(value, bool) and value in harmless), name,
                 "no such key, because models here have nothing like it", value)


def _is_above(token, vocab_size):
    """Whether a default token does not exist in so small a vocabulary, as that of a test."""
    return isinstance(vocab_size, int) and token >= vocab_size


def _read_rotation(settings, given, defaults):
    """{"rope_theta", "rope_scaling"} of either spelling. Where both are there, `rope_scaling` is what counts."""
    rotation = settings.get("rope_scaling") or settings.get("rope_parameters") or {}
    _require(isinstance(rotation, dict), "rope_parameters or rope_scaling", "a dictionary, or None", rotation)
    _require(not any(isinstance(value, dict) for value in rotation.values()), "rope_parameters",
             "one rotation for all layers", rotation)
    partial = rotation.get("partial_rotary_factor", settings.get("partial_rotary_factor", 1))
    _require(partial in (1, None), "partial_rotary_factor", "1, the rotation of all features", partial)
    theta = rotation.get("rope_theta", settings.get("rope_theta", LlamaConfig.rope_theta))
    scaling = {key: value for key, value in rotation.items() if key not in ("rope_theta", "partial_rotary_factor")}
    kind = scaling.get("rope_type", scaling.get("type", None if scaling else "default"))
    _require(kind in ROTATIONS, "rope_scaling", "rope_type 'default', 'linear' or 'llama3'", kind)
    if kind == "default":
        return {"rope_theta": theta, "rope_scaling": None}
    if kind == "llama3":
        old = given.get("max_position_embeddings", defaults["max_position_embeddings"])
        scaling.setdefault("original_max_position_embeddings", settings.get("original_max_position_embeddings", old))
    return {"rope_theta": theta, "rope_scaling": scaling}


# ---- writing

def write_config(config):
    """The contents of a config.json for `config`: of the family that has just its parts, else "tinyllama".

    `read_config` gives back an equal configuration, and transformers a model with the same logits, unless it is ours.
    """
    kind = family_of(config)
    if kind == "tinyllama":
        return config.to_dict()
    settings = {name: value for name, value in dataclasses.asdict(config).items()
                if name in (*SHARED, "rope_theta", "rope_scaling")}
    settings |= {"architectures": [FAMILIES[kind].class_name], "model_type": kind, "hidden_act": "silu"}
    if kind in ("llama", "qwen3"):
        settings["attention_bias"] = config.attention_bias
    if kind == "llama":
        settings["mlp_bias"] = config.mlp_bias
    if kind == "mistral":
        settings["sliding_window"] = config.sliding_window
    if kind in ("qwen2", "qwen3"):
        settings |= {"use_sliding_window": config.sliding_window is not None, "sliding_window": config.sliding_window,
                     "max_window_layers": 0}
    return settings


def family_of(config):
    """The "model_type" of the family that has just the parts of `config`, or "tinyllama" where none has."""
    if (config.norm, config.mlp, config.positions) != ("rmsnorm", "swiglu", "rope") or \
            config.num_unique_layers != config.num_hidden_layers:
        return "tinyllama"
    biases = (config.attention_bias, config.attention_output_bias, config.mlp_bias)
    if config.qk_norm:
        return "qwen3" if biases in ((False, False, False), (True, True, False)) else "tinyllama"
    if biases == (True, False, False):
        return "qwen2"
    # transformers' Llama has no window, and wants heads that divide the hidden size even where head_dim is given.
    is_llama = config.sliding_window is None and config.hidden_size % config.num_attention_heads == 0
    if is_llama and biases[0] == biases[1]:
        return "llama"
    return "mistral" if biases == (False, False, False) else "tinyllama"


def _require(holds, name, expected, got):
    if not holds:
        raise ValueError(f"{name}: expected {expected}, got {got!r}")
