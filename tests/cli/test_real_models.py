"""`tinyllama generate` and `tinyllama evaluate` on models of every format, with their weights in every form."""

import dataclasses
import json
import math
import shutil

import chat_models
import pytest
from command_line import assert_is_a_mistake, command_line

import tinyllama as tl
from tinyllama.cli import models
from tinyllama.data import read_corpus
from tinyllama.models.quantization import quantize
from tinyllama.tokenizers import load_tokenizer
from tinyllama.training.evaluation import evaluate_text

GREEDY = ("--prompt", "the cat", "--temperature", 0, "--max-new-tokens", 8)


@pytest.fixture
def tinyllama(monkeypatch, capsys, tmp_path):
    (tmp_path / "text.txt").write_text(chat_models.TEXT, encoding="utf-8")
    return command_line(monkeypatch, capsys, tmp_path)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    return chat_models.write_gguf(tmp_path_factory.mktemp("models") / "model.gguf", kind="Q4_0")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return chat_models.write_directory(tmp_path_factory.mktemp("models") / "model")


def greedy(model, path):
    tokenizer = load_tokenizer(path)
    tokens = list(model.generate(tokenizer.encode("the cat"), 8, temperature=0))
    return tokenizer.decode_bytes(tokens).decode(errors="replace")


# ---- generate

def test_auto_is_what_the_file_holds(gguf, directory, tinyllama):
    stored, exact = tl.load(gguf, quantization="stored"), tl.load(directory)
    assert tinyllama("generate", gguf, *GREEDY).out == f"the cat{greedy(stored, gguf)}\n"
    assert tinyllama("generate", directory, *GREEDY).out == f"the cat{greedy(exact, directory)}\n"
    for path, expected in ((gguf, stored), (directory, exact)):
        model, _ = models.open_model(path)
        assert type(model) is type(expected)
        assert models.weight_bytes(model) == models.weight_bytes(expected)


@pytest.mark.parametrize(("weights", "bits"), [("float32", None), ("int8", 8), ("int4", 4)])
def test_weights_may_be_held_in_another_form_than_in_the_file(weights, bits, gguf, directory, tinyllama):
    for path in (gguf, directory):
        model = tl.load(path) if bits is None else quantize(tl.load(path), bits)
        assert tinyllama("generate", path, *GREEDY, "--weights", weights).out == f"the cat{greedy(model, path)}\n"
        opened, _ = models.open_model(path, weights=weights)
        assert models.weight_bytes(opened) == models.weight_bytes(model)


def test_json_has_the_text_and_its_figures(directory, tinyllama):
    result = json.loads(tinyllama("generate", directory, *GREEDY, "--json").out)
    assert result["text"] == greedy(tl.load(directory), directory)
    assert (result["prompt"], result["tokens"]) == ("the cat", 8)
    assert result["prompt_tokens"] == len(load_tokenizer(directory).encode("the cat"))
    assert result["seconds_to_first_token"] > 0 and result["tokens_per_second"] > 0


def test_a_file_of_llama2c_has_its_tokenizer_beside_it_or_anywhere(shared_data, tmp_path, tinyllama):
    (tmp_path / "model.bin").symlink_to(shared_data / "stories260K.bin")
    options = ("--temperature", 0, "--max-new-tokens", 12)
    assert_is_a_mistake(tinyllama("generate", "model.bin"), "tokenizer.bin: expected a tokenizer's file")
    given = tinyllama("generate", "model.bin", *options, "--tokenizer", shared_data / "tok512.bin")
    assert given.out.startswith(" Once upon a time")
    (tmp_path / "tokenizer.bin").symlink_to(shared_data / "tok512.bin")
    assert tinyllama("generate", "model.bin", *options) == given


# ---- evaluate

def test_evaluate_compares_what_forms_of_weights_cost(directory, tmp_path, tinyllama):
    arguments = ("evaluate", directory, "--data", "text.txt")
    names = ["float32", "int8", "int4"]
    rows = json.loads(tinyllama(*arguments, "--compare-weights", ",".join(names), "--json").out)["comparison"]
    assert [row["weights"] for row in rows] == names
    tokenizer, corpus = load_tokenizer(directory), read_corpus(str(tmp_path / "text.txt"))
    exact = tl.load(directory)
    for row, model in zip(rows, [exact, quantize(exact), quantize(exact, 4)], strict=True):
        expected = evaluate_text(model, tokenizer, corpus)
        assert (row["loss"], row["bits_per_byte"], row["tokens"]) == pytest.approx(
            (expected.loss, expected.bits_per_byte, expected.tokens), rel=1e-4)
        assert row["perplexity"] == pytest.approx(math.exp(row["loss"]))
        assert row["weight_bytes"] == models.weight_bytes(model)
        assert row["tokens_per_second_reading"] > 0 and row["tokens_per_second_writing"] > 0
    assert all(rows[0]["weight_bytes"] > 2 * row["weight_bytes"] for row in rows[1:])
    table = tinyllama(*arguments, "--compare-weights", "float32,int4")
    lines = {line.split()[0]: line.split() for line in table.out.splitlines() if line.strip()}
    assert lines["float32"][2:4] == [f"{rows[0]['perplexity']:.3f}", "+0.00%"]
    assert lines["int4"][3] == f"{rows[2]['perplexity'] / rows[0]['perplexity'] - 1:+.2%}"


def test_a_model_without_room_to_write_has_no_rate_of_writing(directory, tmp_path, tinyllama):
    model = tl.load(directory)
    short = tl.Llama(dataclasses.replace(model.config, max_position_embeddings=1), seed=0)
    tl.save(short, tmp_path / "short")
    shutil.copy(directory / "tokenizer.json", tmp_path / "short")
    shown = tinyllama("evaluate", "short", "--data", "text.txt", "--compare-weights", "float32", "--json").out
    assert json.loads(shown)["comparison"][0]["tokens_per_second_writing"] is None


def test_evaluate_takes_one_form_of_weights_and_a_context(gguf, tmp_path, tinyllama):
    arguments = ("evaluate", gguf, "--data", "text.txt", "--json")
    losses = {(weights, context): json.loads(tinyllama(*arguments, "--weights", weights, "--context", context).out)
              ["loss"] for weights in ("auto", "int4") for context in (20, 100)}
    assert len({round(loss, 3) for loss in losses.values()}) == 4
    expected = evaluate_text(tl.load(gguf), load_tokenizer(gguf), read_corpus(str(tmp_path / "text.txt")), 20)
    assert losses["auto", 20] == pytest.approx(expected.loss, rel=1e-4)


@pytest.mark.parametrize(("options", "message"), [
    (["--weights", "int3"], "--weights: expected one of auto, float32, int8, int4, got 'int3'"),
    (["--compare-weights", "float32,"], "--compare-weights: expected one of auto, float32, int8, int4, got ''"),
    (["--compare-weights", "int8", "--weights", "int8"], "--weights: expected none beside --compare-weights"),
    (["--context", "0"], "context: expected 1 to 300 tokens, as the model has, got 0"),
    (["--context", "301"], "context: expected 1 to 300 tokens, as the model has, got 301"),
])
def test_evaluate_refuses_what_cannot_be(options, message, directory, tinyllama):
    result = tinyllama("evaluate", directory, "--data", "text.txt", *options)
    assert_is_a_mistake(result, message)
    assert result.out == ""
