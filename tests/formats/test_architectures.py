"""What a config.json of each family means, what is refused, and which family a model of ours is written as."""

import dataclasses
import json

import models_under_test as mut
import pytest

from tinyllama.formats.architectures import FAMILIES, family_of, read_config, write_config
from tinyllama.models import LlamaConfig

SIZES = {"vocab_size": 32, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 6}
LARGE = SIZES | {"vocab_size": 40_000, "hidden_size": 64, "num_attention_heads": 32}
HUGGING_FACE = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1,
    "eos_token_id": [2, 3], "head_dim": 4, "hidden_act": "silu", "hidden_size": 24, "initializer_range": 0.02,
    "intermediate_size": 40, "max_position_embeddings": 64, "mlp_bias": False, "model_type": "llama",
    "num_attention_heads": 6, "num_hidden_layers": 3, "num_key_value_heads": 2, "pretraining_tp": 1,
    "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 500000.0, "tie_word_embeddings": True,
    "torch_dtype": "bfloat16", "transformers_version": "4.48.0", "use_cache": True, "vocab_size": 32,
}


def make(**changes):
    return LlamaConfig(**SIZES | changes)


def read(kind="llama", **changes):
    return read_config({"model_type": kind, **SIZES, "num_key_value_heads": 2, "head_dim": 4, **changes})


# ---- reading

def test_a_file_of_hugging_face():
    assert read_config(HUGGING_FACE) == make(
        num_key_value_heads=2, head_dim=4, max_position_embeddings=64, rms_norm_eps=1e-6, rope_theta=500000.0,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=[2, 3])


@pytest.mark.parametrize("newer, older", [
    ({"rope_theta": 500.0, "rope_type": "default"}, {"rope_theta": 500.0, "rope_scaling": None}),
    ({"rope_theta": 500.0}, {"rope_theta": 500.0, "rope_scaling": None}),
    ({"rope_theta": 500.0, **mut.LLAMA3}, {"rope_theta": 500.0, "rope_scaling": mut.LLAMA3}),
    ({"rope_theta": 500.0, "rope_type": "linear", "factor": 2.0},
     {"rope_theta": 500.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    (mut.LLAMA3, {"rope_scaling": mut.LLAMA3}),
], ids=["default", "theta alone", "llama3", "linear", "without theta"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_both_spellings_of_the_rotation_mean_the_same(kind, newer, older):
    from_newer, from_older = read(kind, rope_parameters=newer), read(kind, **older)
    assert from_newer == from_older
    assert from_newer.rope_theta == older.get("rope_theta", 10000.0)
    assert from_newer.rope_scaling == older["rope_scaling"]


def test_the_oldest_spelling_of_the_kind_of_scaling():
    config = read(rope_scaling={"type": "linear", "factor": 2.0})
    assert logits_of(config) == logits_of(read(rope_scaling={"rope_type": "linear", "factor": 2.0}))
    assert logits_of(config) != logits_of(read())


def logits_of(config):
    return mut.Llama(config, dtype="float64").logits(mut.IDS).tobytes()


def test_a_scaling_that_does_not_say_its_old_context_means_the_new_one():
    scaling = {name: value for name, value in mut.LLAMA3.items() if name != "original_max_position_embeddings"}
    config = read(max_position_embeddings=77, rope_scaling=scaling)
    assert config.rope_scaling["original_max_position_embeddings"] == 77
    assert "original_max_position_embeddings" not in scaling


@pytest.mark.parametrize("kind, expected", [
    ("llama", dict(num_key_value_heads=32, head_dim=2, max_position_embeddings=2048, bos_token_id=1, eos_token_id=2)),
    ("mistral", dict(num_key_value_heads=8, head_dim=2, max_position_embeddings=131072, sliding_window=4096,
                     bos_token_id=1, eos_token_id=2)),
    ("qwen2", dict(num_key_value_heads=32, head_dim=2, max_position_embeddings=32768, attention_bias=True,
                   attention_output_bias=False)),
    ("qwen3", dict(num_key_value_heads=32, head_dim=128, max_position_embeddings=32768, qk_norm=True)),
    ("phi3", dict(num_key_value_heads=32, head_dim=2, max_position_embeddings=4096, rms_norm_eps=1e-5, bos_token_id=1,
                  eos_token_id=32000)),
])
def test_what_a_file_leaves_out_is_as_transformers_has_it(kind, expected):
    config = read_config({"model_type": kind, **LARGE})
    assert config == LlamaConfig(**LARGE | {"rms_norm_eps": 1e-6} | expected)


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_defaults_are_those_of_the_installed_transformers(kind):
    pytest.importorskip("torch", reason="torch is not installed, so there is nobody to ask.")
    transformers = pytest.importorskip("transformers", minversion="5.0",
                                       reason="transformers 5 is not installed, so there is nobody to ask.")
    theirs = transformers.AutoConfig.for_model(kind, **LARGE)
    assert read_config({"model_type": kind, **LARGE}) == read_config({**theirs.to_dict(), "model_type": kind})


def test_a_default_token_beyond_a_small_vocabulary_is_none():
    assert read_config({"model_type": "phi3", **SIZES}).eos_token_id is None
    with pytest.raises(ValueError, match="eos_token_id"):
        read_config({"model_type": "phi3", **SIZES, "eos_token_id": 32000})


@pytest.mark.parametrize("changes, window", [
    ({}, None), ({"sliding_window": 7}, None), ({"use_sliding_window": True, "sliding_window": 7}, None),
    ({"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 0}, 7),
    ({"use_sliding_window": True, "max_window_layers": 0}, 4096),
    ({"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 3}, None),
    ({"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0}, None),
    ({"use_sliding_window": True, "sliding_window": 7, "layer_types": ["sliding_attention"] * 3}, 7),
    ({"use_sliding_window": True, "sliding_window": 7, "layer_types": ["full_attention"] * 3,
      "max_window_layers": 0}, None),
])
@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_the_window_of_qwen_holds_where_it_is_used_and_for_all_layers(kind, changes, window):
    assert read(kind, **changes).sliding_window == window


@pytest.mark.parametrize("kind, changes, message", [
    ("gemma2", {}, "model_type: expected one of llama, mistral, qwen2, qwen3, phi3, tinyllama, got 'gemma2'"),
    (None, {}, "model_type: expected one of llama, mistral, qwen2, qwen3, phi3, tinyllama, got None"),
    (["llama"], {}, "model_type: expected one of llama, mistral, qwen2, qwen3, phi3, tinyllama, got ['llama']"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act: expected 'silu', got 'gelu'"),
    ("llama", {"rope_parameters": "linear"}, "rope_parameters or rope_scaling: expected a dictionary, or None, "
     "got 'linear'"),
    ("llama", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
     "partial_rotary_factor: expected 1, the rotation of all features, got 0.5"),
    ("phi3", {"partial_rotary_factor": 0.75}, "partial_rotary_factor: expected 1, the rotation of all features, "
     "got 0.75"),
    ("phi3", {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}},
     "rope_scaling: expected rope_type 'default', 'linear' or 'llama3', got 'longrope'"),
    ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
     "rope_scaling: expected rope_type 'default', 'linear' or 'llama3', got 'dynamic'"),
    ("llama", {"rope_parameters": {"rope_theta": 500.0, "factor": 2.0}},
     "rope_scaling: expected rope_type 'default', 'linear' or 'llama3', got None"),
    ("llama", {"num_key_value_heads": 4}, "num_key_value_heads: expected a divisor of num_attention_heads=6, got 4"),
    ("llama", {"num_hidden_layers": "3"}, "num_hidden_layers: expected a whole number of at least 1, got '3'"),
    ("llama", {"final_logit_softcapping": 30.0}, "final_logit_softcapping: expected no such key, because models here "
     "have nothing like it, got 30.0"),
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config: expected no such key, because models here "
     "have nothing like it, got {'bits': 4}"),
    ("llama", {"residual_multiplier": True}, "residual_multiplier: expected no such key, because models here "
     "have nothing like it, got True"),
    ("mistral", {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
     "layer_types: expected 'sliding_attention' for all layers, got "
     "['full_attention', 'sliding_attention', 'full_attention']"),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
     "max_window_layers: expected 0 or at least num_hidden_layers=3, because here a window holds for all layers or for "
     "none, got 1"),
    ("qwen3", {"layer_types": ["sliding_attention"] * 3}, "layer_types: expected 'full_attention' for all 3 layers, or "
     "'sliding_attention' for all and a window, got ['sliding_attention', 'sliding_attention', 'sliding_attention']"),
    ("qwen3", {"layer_types": 5}, "layer_types: expected 'full_attention' for all 3 layers, or "
     "'sliding_attention' for all and a window, got 5"),
    ("qwen2", {"use_sliding_window": "false"}, "use_sliding_window: expected true or false, got 'false'"),
    ("qwen2", {"max_window_layers": None}, "max_window_layers: expected a whole number, got None"),
    ("qwen3", {"head_dim": None}, "head_dim: expected a whole number of at least 1, got None"),
])
def test_what_would_change_the_numbers_is_refused_by_name(kind, changes, message):
    with pytest.raises(ValueError) as caught:
        read(kind, **changes)
    assert str(caught.value) == message


@pytest.mark.parametrize("changes", [
    {"final_logit_softcapping": None}, {"residual_multiplier": 1.0}, {"num_experts": 0}, {"layer_types": None},
    {"hidden_act": "swish"}, {"partial_rotary_factor": 1.0}, {"rope_parameters": {"partial_rotary_factor": 1.0}},
    {"sliding_window": 5},      # which transformers' Llama does not look at
])
def test_what_changes_nothing_is_ignored(changes):
    assert read(**changes) == read()


def test_all_missing_sizes_are_named():
    with pytest.raises(ValueError, match=r"config: expected the keys vocab_size, .*no intermediate_size, num_hidden_"):
        read_config({"model_type": "llama", "vocab_size": 32, "hidden_size": 24, "num_attention_heads": 6})


# ---- writing

KINDS = [
    ({}, "llama"), ({"num_key_value_heads": 2, "head_dim": 8, "eos_token_id": [2, 3], "bos_token_id": 1}, "llama"),
    ({"rope_scaling": mut.LLAMA3, "rope_theta": 500.0}, "llama"), ({"dropout": 0.1}, "llama"),
    ({"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}, "llama"),
    ({"embedding_initializer_range": 0.5, "initializer_range": 0.1, "max_position_embeddings": 99}, "llama"),
    ({"sliding_window": 7}, "mistral"), ({"num_attention_heads": 5, "head_dim": 8}, "mistral"),
    ({"attention_bias": True, "attention_output_bias": False}, "qwen2"),
    ({"attention_bias": True, "attention_output_bias": False, "sliding_window": 7}, "qwen2"),
    ({"qk_norm": True, "head_dim": 6}, "qwen3"), ({"qk_norm": True, "attention_bias": True}, "qwen3"),
    ({"qk_norm": True, "sliding_window": 7}, "qwen3"),
    ({"norm": "layernorm"}, "tinyllama"), ({"mlp": "relu"}, "tinyllama"), ({"mlp": "gelu"}, "tinyllama"),
    ({"positions": "learned"}, "tinyllama"), ({"positions": "sinusoidal"}, "tinyllama"),
    ({"positions": "none", "head_dim": 5}, "tinyllama"), ({"num_unique_layers": 2}, "tinyllama"),
    ({"sliding_window": 7, "mlp_bias": True}, "tinyllama"), ({"attention_output_bias": True}, "tinyllama"),
    ({"qk_norm": True, "mlp_bias": True}, "tinyllama"),
    ({"num_attention_heads": 5, "head_dim": 8, "attention_bias": True}, "tinyllama"),
]


@pytest.mark.parametrize("changes, kind", KINDS)
def test_a_model_is_written_as_the_family_that_has_its_parts_and_read_back(changes, kind):
    config = make(**changes)
    written = json.loads(json.dumps(write_config(config)))
    assert family_of(config) == written["model_type"] == kind
    assert written.get("architectures") == ([FAMILIES[kind].class_name] if kind in FAMILIES else None)
    assert read_config(written) == config
    if kind in FAMILIES:        # nothing but what the family has, so that nobody takes it for something else
        assert not {"norm", "mlp", "positions", "num_unique_layers", "qk_norm", "attention_output_bias"} & set(written)
    else:
        assert set(written) == {"model_type"} | {field.name for field in dataclasses.fields(config)}
