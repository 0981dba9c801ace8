"""The configuration: what it refuses, how it fills in what is not said, and the dictionary that it is written as."""

import dataclasses
import json

import models_under_test as mut
import pytest

from tinyllama.models import LlamaConfig

SIZES = {"vocab_size": 32, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 6}


def make(**changes):
    return LlamaConfig(**SIZES | changes)


# ---- filling in

def test_what_is_not_said_is_as_usual():
    config = make()
    assert config.num_key_value_heads == 6
    assert config.head_dim == 4
    assert config.num_unique_layers == 3
    assert config.embedding_initializer_range == config.initializer_range == 0.02
    assert (config.norm, config.mlp, config.positions) == ("rmsnorm", "swiglu", "rope")
    assert config.end_tokens == ()
    assert config.attention_output_bias is False
    assert make(attention_bias=True).attention_output_bias is True


def test_what_is_said_stays():
    config = make(num_key_value_heads=2, head_dim=8, num_unique_layers=1, embedding_initializer_range=0.5)
    assert (config.num_key_value_heads, config.head_dim, config.num_unique_layers) == (2, 8, 1)
    assert config.embedding_initializer_range == 0.5


@pytest.mark.parametrize("eos, expected", [(None, ()), (0, (0,)), (5, (5,)), ([5, 6], (5, 6)), ((5, 6), (5, 6)),
                                           ([], ())])
def test_end_tokens(eos, expected):
    assert make(eos_token_id=eos).end_tokens == expected


def test_a_configuration_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().hidden_size = 48


# ---- refusing

@pytest.mark.parametrize("changes, name, expected, got", [
    ({"num_attention_heads": 5}, "num_attention_heads", "a divisor of hidden_size=24, or a head_dim", "5"),
    ({"num_key_value_heads": 4}, "num_key_value_heads", "a divisor of num_attention_heads=6", "4"),
    ({"num_key_value_heads": 12}, "num_key_value_heads", "a divisor of num_attention_heads=6", "12"),
    ({"head_dim": 5}, "head_dim", "an even number for rotary positions", "5"),
    ({"hidden_size": 25, "head_dim": 4, "positions": "sinusoidal"}, "hidden_size",
     "an even number for sinusoidal positions", "25"),
    ({"norm": "batchnorm"}, "norm", "one of 'rmsnorm', 'layernorm'", "'batchnorm'"),
    ({"mlp": "silu"}, "mlp", "one of 'swiglu', 'relu', 'gelu'", "'silu'"),
    ({"positions": "alibi"}, "positions", "one of 'rope', 'learned', 'sinusoidal', 'none'", "'alibi'"),
    ({"positions": None}, "positions", "one of 'rope', 'learned', 'sinusoidal', 'none'", "None"),
    ({"vocab_size": 0}, "vocab_size", "a whole number of at least 1", "0"),
    ({"vocab_size": 32.0}, "vocab_size", "a whole number of at least 1", "32.0"),
    ({"vocab_size": "32"}, "vocab_size", "a whole number of at least 1", "'32'"),
    ({"vocab_size": True}, "vocab_size", "a whole number of at least 1", "True"),
    ({"hidden_size": 0}, "hidden_size", "a whole number of at least 1", "0"),
    ({"hidden_size": -24}, "hidden_size", "a whole number of at least 1", "-24"),
    ({"intermediate_size": -1}, "intermediate_size", "a whole number of at least 1", "-1"),
    ({"num_hidden_layers": 0}, "num_hidden_layers", "a whole number of at least 1", "0"),
    ({"num_attention_heads": 0}, "num_attention_heads", "a whole number of at least 1", "0"),
    ({"num_attention_heads": -6}, "num_attention_heads", "a whole number of at least 1", "-6"),
    ({"num_key_value_heads": 0}, "num_key_value_heads", "a whole number of at least 1", "0"),
    ({"head_dim": 0}, "head_dim", "a whole number of at least 1", "0"),
    ({"max_position_embeddings": 0}, "max_position_embeddings", "a whole number of at least 1", "0"),
    ({"num_unique_layers": 0}, "num_unique_layers", "a whole number of at least 1", "0"),
    ({"num_unique_layers": 4}, "num_unique_layers", "at most num_hidden_layers=3", "4"),
    ({"rms_norm_eps": 0.0}, "rms_norm_eps", "a number above 0", "0.0"),
    ({"rms_norm_eps": "1e-5"}, "rms_norm_eps", "a number above 0", "'1e-5'"),
    ({"rope_theta": float("nan")}, "rope_theta", "a number above 0", "nan"),
    ({"rope_theta": float("inf")}, "rope_theta", "a number above 0", "inf"),
    ({"initializer_range": -0.02}, "initializer_range", "a number above 0", "-0.02"),
    ({"embedding_initializer_range": 0}, "embedding_initializer_range", "a number above 0", "0"),
    ({"dropout": 1.0}, "dropout", "0 <= dropout < 1", "1.0"),
    ({"dropout": -0.1}, "dropout", "0 <= dropout < 1", "-0.1"),
    ({"dropout": None}, "dropout", "0 <= dropout < 1", "None"),
    ({"sliding_window": 0}, "sliding_window", "at least 1, or None", "0"),
    ({"sliding_window": 2.5}, "sliding_window", "at least 1, or None", "2.5"),
    ({"sliding_window": "3"}, "sliding_window", "at least 1, or None", "'3'"),
    ({"hidden_size": None}, "hidden_size", "a whole number of at least 1", "None"),
    ({"tie_word_embeddings": "false"}, "tie_word_embeddings", "True or False", "'false'"),
    ({"attention_bias": 1}, "attention_bias", "True or False", "1"),
    ({"mlp_bias": None}, "mlp_bias", "True or False", "None"),
    ({"qk_norm": None}, "qk_norm", "True or False", "None"),
    ({"attention_output_bias": 1}, "attention_output_bias", "True, False or None", "1"),
    ({"rope_scaling": "linear"}, "rope_scaling", "a dictionary, or None", "'linear'"),
    ({"bos_token_id": 32}, "bos_token_id or eos_token_id", "a token from 0 to 31", "32"),
    ({"bos_token_id": True}, "bos_token_id or eos_token_id", "a token from 0 to 31", "True"),
    ({"eos_token_id": -1}, "bos_token_id or eos_token_id", "a token from 0 to 31", "-1"),
    ({"eos_token_id": [2, 32]}, "bos_token_id or eos_token_id", "a token from 0 to 31", "32"),
    ({"eos_token_id": "2"}, "bos_token_id or eos_token_id", "a token from 0 to 31", "'2'"),
])
def test_a_field_out_of_range_is_named_with_what_was_expected_and_what_came(changes, name, expected, got):
    with pytest.raises(ValueError) as caught:
        make(**changes)
    assert str(caught.value) == f"{name}: expected {expected}, got {got}"


@pytest.mark.parametrize("scaling, message", [
    ({"rope_type": "yarn", "factor": 2.0}, "rope_scaling: expected rope_type 'default', 'linear' or 'llama3', got"),
    ({"rope_type": "linear"}, "rope_scaling: 'linear' needs the key 'factor'"),
    ({"rope_type": "llama3", "factor": 8.0}, "rope_scaling: 'llama3' needs the key 'original_max_position_embeddings'"),
    ({"factor": 2.0}, "rope_scaling: expected rope_type"),
    ({"rope_type": "linear", "factor": 0}, "rope_scaling: expected a number above 0 for 'factor', got 0"),
    ({"rope_type": "linear", "factor": "2"}, "rope_scaling: expected a number above 0 for 'factor', got '2'"),
    (mut.LLAMA3 | {"low_freq_factor": -1.0}, "rope_scaling: expected a number above 0 for 'low_freq_factor', got -1.0"),
    (mut.LLAMA3 | {"high_freq_factor": 0.2}, "rope_scaling: expected high_freq_factor above low_freq_factor=0.2, got"),
])
def test_a_rotation_that_is_not_known_or_not_complete_is_refused(scaling, message):
    with pytest.raises(ValueError, match=message):
        make(rope_scaling=scaling)


def test_an_odd_head_is_fine_without_rotation():
    assert make(head_dim=5, positions="learned").head_dim == 5
    assert make(head_dim=5, positions="none").head_dim == 5


def test_heads_need_not_divide_the_hidden_size_where_head_dim_is_given():
    assert make(num_attention_heads=5, num_key_value_heads=5, head_dim=8).head_dim == 8


# ---- as a dictionary

VARIANTS = [
    {}, {"num_key_value_heads": 2, "head_dim": 8, "eos_token_id": [2, 3], "bos_token_id": 1},
    {"rope_scaling": mut.LLAMA3, "rope_theta": 500.0}, {"norm": "layernorm"},
    {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    {"mlp": "relu"}, {"mlp": "gelu", "positions": "learned"}, {"positions": "sinusoidal"},
    {"qk_norm": True}, {"attention_output_bias": True}, {"attention_bias": True, "attention_output_bias": False},
    {"positions": "none", "head_dim": 5}, {"num_unique_layers": 2}, {"sliding_window": 7}, {"dropout": 0.1},
    {"embedding_initializer_range": 0.5, "initializer_range": 0.1, "rms_norm_eps": 1e-6, "max_position_embeddings": 99},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_what_is_written_is_read_back(changes):
    config = make(**changes)
    written = config.to_dict()
    assert set(written) == {"model_type"} | {field.name for field in dataclasses.fields(config)}
    assert LlamaConfig.from_dict(json.loads(json.dumps(written))) == config


@pytest.mark.parametrize("settings, message", [
    ({"model_type": "mistral", **SIZES}, "model_type: expected 'tinyllama', got 'mistral'"),
    (SIZES, "model_type: expected 'tinyllama', got None"),
    ({"model_type": "tinyllama", **SIZES, "num_key_value_heads": 4},
     "num_key_value_heads: expected a divisor of num_attention_heads=6, got 4"),
])
def test_a_dictionary_that_cannot_be_read_says_why(settings, message):
    with pytest.raises(ValueError) as caught:
        LlamaConfig.from_dict(settings)
    assert str(caught.value) == message


def test_missing_and_unknown_keys_are_named():
    with pytest.raises(ValueError, match=r"config: expected the keys vocab_size, .* got 'no intermediate_size, num_h"):
        LlamaConfig.from_dict({"model_type": "tinyllama", "vocab_size": 32, "hidden_size": 24,
                               "num_attention_heads": 6})
    with pytest.raises(ValueError, match=r"config: expected the keys vocab_size, .* got 'rope_parameters'"):
        LlamaConfig.from_dict({"model_type": "tinyllama", **SIZES, "rope_parameters": {"rope_theta": 500.0}})
