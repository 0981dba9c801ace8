"""Settings of runs, and the presets."""

import dataclasses

import pytest

from tinyllama.tokenizers import CharacterTokenizer
from tinyllama.training import TrainingSettings
from tinyllama.training.settings import PRESETS, RunSettings, preset_for


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_describes_a_model_that_can_be(name):
    settings = RunSettings(**PRESETS[name])
    config = settings.model_config(CharacterTokenizer("abc"))
    assert config.max_position_embeddings == settings.context
    assert settings.training().steps == settings.steps


def test_the_preset_of_a_corpus_is_its_own_and_that_of_a_file_one_of_characters():
    assert [preset_for(data) for data in ("stories", "shakespeare", "my.txt", "folder")] == [
        "stories", "shakespeare", "shakespeare", "shakespeare"]
    assert RunSettings(**PRESETS["shakespeare"]).vocab_size is None


def test_everything_that_the_loop_can_be_told_reaches_it():
    told = {"steps": 7, "optimizer": "sgd", "learning_rate": 0.3, "schedule": "linear", "warmup_steps": 3,
            "final_fraction": 0.5, "momentum": 0.4, "weight_decay": 0.2, "l2": 0.05, "max_grad_norm": 2.0,
            "label_smoothing": 0.15, "micro_steps": 4, "seed": 9}
    training = RunSettings(**told).training()
    assert {name: getattr(training, name) for name in told} == told
    assert {field.name for field in dataclasses.fields(TrainingSettings)} - {*told} == {"betas"}


def test_everything_that_the_model_can_be_told_reaches_it():
    config = RunSettings(hidden_size=24, intermediate_size=20, layers=3, heads=4, key_value_heads=2, context=9,
                         initializer_range=0.06, dropout=0.3).model_config(CharacterTokenizer("abc"))
    assert (config.vocab_size, config.hidden_size, config.intermediate_size, config.num_hidden_layers,
            config.num_attention_heads, config.num_key_value_heads, config.max_position_embeddings,
            config.initializer_range, config.dropout) == (3, 24, 20, 3, 4, 2, 9, 0.06, 0.3)
    assert (config.bos_token_id, config.eos_token_id) == (None, None)


@pytest.mark.parametrize(("settings", "message"), [
    ({"evaluate_every": 0}, "evaluate_every: expected at least 1, got 0"),
    ({"micro_steps": 13}, "micro_steps: expected at most batch_size=12, since each has at least one row, got 13"),
    ({"micro_steps": 0}, "micro_steps: expected an integer of at least 1, got 0"),
    ({"learning_rate": float("inf")}, "learning_rate: expected a number above 0, got inf"),
    ({"final_fraction": float("inf")}, "final_fraction: expected a number of at least 0, got inf"),
    ({"l2": float("inf")}, "l2: expected a number of at least 0, got inf"),
    ({"optimizer": "adam"}, "optimizer: expected one of 'adamw', 'sgd', got 'adam'"),
    ({"schedule": "square"}, "schedule: expected one of 'constant', 'linear', 'cosine', got 'square'"),
    ({"momentum": 1.0}, "momentum: expected 0 <= momentum < 1, got 1.0"),
    ({"label_smoothing": 1.5}, "label_smoothing: expected 0 <= label_smoothing <= 1, got 1.5"),
    ({"vocab_size": 300, "tokenizer": "a"}, "vocab_size: expected none beside a tokenizer"),
])
def test_settings_out_of_their_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RunSettings(**settings)
