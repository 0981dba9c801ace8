"""The commands as a user types them: most through `main` in this process, some in a process of their own."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import Result, assert_is_a_mistake, command_line

from tinyllama.backends import load_backend
from tinyllama.course import gradient_table
from tinyllama.formats import load
from tinyllama.generation import writing
from tinyllama.models.quantization import quantize
from tinyllama.tokenizers import load_tokenizer
from tinyllama.training import run
from tinyllama.training.run_directory import NAMES
from tinyllama.training.settings import PRESETS

WRITTEN = sorted({*NAMES} - {"tensorboard"})       # tensorboard is there only where its package is
TEXT = "the cat sat on the mat.\n" * 20
TINY = ["--steps", "6", "--batch-size", "3", "--context", "8", "--layers", "1", "--hidden-size", "8", "--heads", "2"]


def names(directory):
    return sorted(path.name for path in directory.iterdir() if path.name != "tensorboard")


@pytest.fixture
def tinyllama(monkeypatch, capsys, tmp_path):
    """`tinyllama("train", "--steps", 3)` runs that command in the directory of the test, which holds text.txt."""
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    return command_line(monkeypatch, capsys, tmp_path)


def in_a_process(*arguments, cwd=None):
    """The same in a process of its own, as bytes come out of it."""
    environment = {**os.environ, "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([sys.executable, "-m", "tinyllama.cli", *map(str, arguments)], cwd=cwd, env=environment,
                          capture_output=True, encoding="utf-8", timeout=100)
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The directory of a trained model. Tests that write to it take a copy."""
    directory = tmp_path_factory.mktemp("trained")
    (directory / "text.txt").write_text(TEXT, encoding="utf-8")
    result = in_a_process("train", "--data", "text.txt", "--out", "model", *TINY, cwd=directory)
    assert result.code == 0, result
    return directory / "model"


@pytest.fixture
def model(trained, tmp_path):
    """A copy of the trained model, named "model" in the directory of the test, to be spoiled."""
    return shutil.copytree(trained, tmp_path / "model")


# ---- help

def test_help_lists_the_commands_and_loads_nothing_heavy():
    code = ("import sys; sys.argv = ['tinyllama', '--help']\n"
            "from tinyllama import cli\n"
            "try:\n    cli.main()\n"
            "finally:\n    print({'numpy', 'matplotlib', 'safetensors', 'threadpoolctl'} & set(sys.modules))\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=100)
    assert done.returncode == 0, done
    for command in ("train", "generate", "chat", "evaluate", "gradcheck", "bench"):
        assert command in done.stdout
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize(("command", "options"), [
    ("train", ["--data", "--preset", "--out", "--resume", "--from", "--tokenizer", "--vocab-size", "--layers",
               "--hidden-size", "--intermediate-size", "--heads", "--key-value-heads", "--initializer-range",
               "--context", "--dropout", "--steps", "--batch-size", "--micro-steps", "--optimizer", "--learning-rate",
               "--schedule", "--warmup-steps", "--final-fraction", "--momentum", "--weight-decay", "--l2",
               "--label-smoothing", "--max-grad-norm", "--evaluate-every", "--seed", "--backend", "--workers",
               "--lora-rank", "--lora-alpha", "--lora-targets"]),
    ("evaluate", ["model", "--data", "--weights", "--compare-weights", "--context", "--tokenizer", "--backend",
                  "--json"]),
    ("generate", ["model", "--prompt", "--max-new-tokens", "--temperature", "--top-k", "--top-p", "--min-p", "--seed",
                  "--weights", "--tokenizer", "--backend", "--stop-at-limit", "--json"]),
    ("chat", ["model", "--system", "--temperature", "--top-k", "--top-p", "--min-p", "--seed", "--max-new-tokens",
              "--weights", "--tokenizer", "--backend"]),
    ("gradcheck", ["ops", "--backend", "--json"]),
    ("bench", ["--size", "--compare", "--growth", "--backend", "--workers", "--out", "--json"]),
])
def test_the_help_of_a_command_shows_its_options(command, options, tinyllama):
    result = tinyllama(command, "--help")
    assert (result.code, result.err) == (0, "")
    assert [option for option in options if option not in result.out] == []
    described = [line for line in result.out.splitlines() if line.lstrip("│ *").startswith("--")]
    assert len(described) == sum(option.startswith("--") for option in options) + 1      # and --help


def test_no_command_shows_the_help(tinyllama):
    result = tinyllama()
    assert "gradcheck" in result.out
    assert (result.code, result.err) == (2, "")


@pytest.mark.parametrize(("arguments", "message"), [
    (["trian"], "No such command 'trian'"),
    (["train", "--step", "3"], "No such option"),
    (["train", "--steps", "many"], "Invalid value for '--steps'"),
    (["train", "--steps", "many"], "'many'"),
    (["train", "--out", ""], "Invalid value for '--out': expected a path, got an empty text"),
    (["train", "--from", ""], "expected a path, got an empty text"),
    (["train", "--tokenizer", ""], "expected a path, got an empty text"),
    (["generate", ""], "expected a path, got an empty text (see tinyllama generate --help)"),
    (["evaluate", "", "--data", "text.txt"], "expected a path, got an empty text"),
    (["generate"], "Missing argument"),
])
def test_a_slip_of_the_keyboard_is_one_line(arguments, message, tinyllama, tmp_path):
    assert_is_a_mistake(tinyllama(*arguments), message)
    assert names(tmp_path) == ["text.txt"]


# ---- what goes right

def test_train_then_generate_in_processes_of_their_own(trained):
    assert names(trained) == WRITTEN
    command = ("generate", trained, "--prompt", "the ", "--max-new-tokens", 40)
    first, second = in_a_process(*command), in_a_process(*command)
    assert (first.code, first.err) == (0, "")       # a text longer than the context is what was asked for: no warning
    assert first.out.startswith("the ")
    assert len(first.out) == len("the ") + 40 + 1
    assert set(first.out) <= set(TEXT)
    assert second == first


def test_train_reports_and_numbers_its_runs(tinyllama, tmp_path):
    for number in (1, 2):
        result = tinyllama("train", "--data", "text.txt", *TINY)
        assert (result.code, result.err) == (0, "")
        assert "480 characters, 12 kinds of tokens" in result.out
        assert "6/6  loss " in result.out
        assert result.out.splitlines()[-1].endswith(f"tinyllama generate {os.path.join('runs', f'text-{number}')}")
        assert names(tmp_path / "runs" / f"text-{number}") == WRITTEN


def test_every_option_of_train_reaches_the_model(tinyllama, tmp_path):
    result = tinyllama("train", "--data", "text.txt", "--out", "m", "--steps", 2, "--batch-size", 2, "--context", 6,
                       "--layers", 2, "--hidden-size", 12, "--intermediate-size", 10, "--heads", 6,
                       "--key-value-heads", 3, "--learning-rate", 0.01, "--dropout", 0.2, "--seed", 3, "--workers", 1,
                       "--backend", "numpy")
    assert result.code == 0, result
    config = load(tmp_path / "m").config
    assert (config.max_position_embeddings, config.num_hidden_layers, config.hidden_size, config.intermediate_size,
            config.num_attention_heads, config.num_key_value_heads, config.dropout) == (6, 2, 12, 10, 6, 3, 0.2)
    settings = json.loads((tmp_path / "m" / "run.json").read_text(encoding="utf-8"))["settings"]
    assert (settings["steps"], settings["batch_size"], settings["learning_rate"], settings["seed"],
            settings["workers"], settings["backend"]) == (2, 2, 0.01, 3, 1, "numpy")


def test_generate_prints_what_the_model_writes(tinyllama, trained):
    llama, tokenizer = load(trained), load_tokenizer(trained)
    options = {"temperature": 1.1, "top_k": 5, "top_p": 0.9, "min_p": 0.05, "seed": 4}
    expected = tokenizer.decode(list(llama.generate(tokenizer.encode("cat"), 5, **options)))
    arguments = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    result = tinyllama("generate", trained, "--prompt", "cat", "--max-new-tokens", 5, *arguments)
    assert result == (0, f"cat{expected}\n", "")


def test_generate_without_a_prompt_begins_with_a_line_break_that_it_does_not_show(tinyllama, trained):
    llama, tokenizer = load(trained), load_tokenizer(trained)
    expected = tokenizer.decode(list(llama.generate(tokenizer.encode("\n"), 7, temperature=0.8)))
    assert tinyllama("generate", trained, "--max-new-tokens", 7) == (0, expected + "\n", "")


def test_generate_with_weights_of_int8(tinyllama, trained):
    llama, tokenizer = quantize(load(trained)), load_tokenizer(trained)
    expected = tokenizer.decode(list(llama.generate(tokenizer.encode("cat"), 5, temperature=0.8)))
    arguments = ("generate", trained, "--prompt", "cat", "--max-new-tokens", 5)
    assert tinyllama(*arguments, "--weights", "int8") == (0, f"cat{expected}\n", "")
    assert_is_a_mistake(tinyllama(*arguments, "--weights", "int3"),
                        "--weights: expected one of auto, float32, int8, int4, got 'int3'")
    assert_is_a_mistake(tinyllama(*arguments, "--weights", "int4"), "expected")     # 8 columns are no group of 32


def test_the_seed_and_the_temperature_matter(tinyllama, trained):
    def text(*options):
        return tinyllama("generate", trained, "--max-new-tokens", 30, *options).out

    assert text("--seed", 1) == text("--seed", 1) != text("--seed", 2)
    assert text("--temperature", 0, "--seed", 1) == text("--temperature", 0, "--seed", 2)


def test_no_tokens_are_no_mistake(tinyllama, trained):
    assert tinyllama("generate", trained, "--prompt", "the", "--max-new-tokens", 0) == (0, "the\n", "")


def test_stopping_at_the_limit_is_said_below_the_text(tinyllama, trained):
    result = tinyllama("generate", trained, "--prompt", "the", "--max-new-tokens", 50, "--stop-at-limit")
    assert result.code == 0
    assert len(result.out) == 3 + (8 - 3 + 1) + 1       # the context holds 8, and the last one needs no place in it
    assert result.err.startswith("tinyllama: a row has filled its context of 8 tokens")
    assert result.err.count("\n") == 1


def test_every_token_is_shown_as_soon_as_it_is_drawn(tinyllama, trained, monkeypatch):
    class Screen:
        """Remembers what has been written, and how much of it had been flushed."""

        def __init__(self):
            self.written, self.shown = "", ""

        def write(self, text):
            self.written += text

        def flush(self):
            self.shown = self.written

    def write(model, tokenizer, prompt, **settings):
        for piece in ("one", " two", " three"):
            yield piece
            shown.append(screen.shown)

    screen, shown = Screen(), []
    monkeypatch.setattr(writing, "write", write)
    monkeypatch.setattr(sys, "stdout", screen)
    assert tinyllama("generate", trained).code == 0
    assert shown == ["one", "one two", "one two three"]
    assert screen.shown == "one two three\n"


def test_ctrl_c_ends_a_text_without_a_traceback(tinyllama, trained, monkeypatch):
    def write(model, tokenizer, prompt, **settings):
        yield "one"
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "write", write)
    result = tinyllama("generate", trained)
    assert result.code not in (0, 2)
    assert result.out.startswith("one")
    assert "Traceback" not in result.err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no broken pipes.")
def test_a_reader_that_has_had_enough_is_no_error(trained):
    command = [sys.executable, "-m", "tinyllama.cli", "generate", trained, "--max-new-tokens", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert len(process.stdout.read(20)) == 20
        process.stdout.close()
        assert process.stderr.read() == b""


# ---- train, in other ways

def test_resume_goes_on_with_a_run_and_takes_nothing_else(tinyllama, model):
    assert_is_a_mistake(tinyllama("train", "--resume"), "resume: expected --out with the directory of the run")
    assert_is_a_mistake(tinyllama("train", "--resume", "--out", "model", "--steps", "9", "--seed", "0"),
                        "resume: expected no --steps, --seed beside it")
    assert_is_a_mistake(tinyllama("train", "--resume", "--out", "nowhere"), "holds run.json, got nowhere without it")
    before = (model / "model.safetensors").read_bytes()
    (model / "loss.png").unlink()
    result = tinyllama("train", "--resume", "--out", "model")       # complete: only its end is made again
    assert (result.code, result.err) == (0, "")
    assert "Steps: 6, each on 3 rows of 8 tokens, all of them made." in result.out
    assert names(model) == WRITTEN
    assert (model / "model.safetensors").read_bytes() == before


def test_a_run_may_begin_with_the_weights_of_another(tinyllama, model, tmp_path):
    arguments = ("train", "--data", "text.txt", "--from", "model", "--context", "8", "--batch-size", "3",
                 "--learning-rate", "1e-9", "--steps", "1", "--out", "new")
    result = tinyllama(*arguments, "--hidden-size", "16")
    assert_is_a_mistake(result, "from: expected no --hidden-size beside it, since the model that it begins with has")
    assert_is_a_mistake(tinyllama(*arguments, "--context", "9"), "context: expected at most 8, as the model in model")
    assert tinyllama(*arguments, "--dropout", "0.25").code == 0
    old, new = load(model), load(tmp_path / "new")
    assert new.config.dropout == 0.25
    np.testing.assert_allclose(new.parameters.trainable, old.parameters.trainable, atol=1e-6)
    assert np.abs(new.parameters.trainable).max() > 0.5


def test_the_data_may_be_a_folder_and_the_tokens_byte_pairs(tinyllama, tmp_path):
    (tmp_path / "folder").mkdir()
    for i in range(12):
        (tmp_path / "folder" / f"{i:02}.txt").write_text(f"the cat number {i} sat on the mat.", encoding="utf-8")
    result = tinyllama("train", "--data", "folder", "--out", "new", "--vocab-size", "270", *TINY, "--context", "40")
    assert (result.code, result.err) == (0, "")
    assert "folder: 12 documents, " in result.out
    assert load(tmp_path / "new").config.vocab_size == 270
    assert load_tokenizer(tmp_path / "new").decode(load_tokenizer(tmp_path / "new").encode("the cat")) == "the cat"
    assert tinyllama("generate", "new", "--max-new-tokens", 5).code == 0

    again = ("train", "--data", "folder", "--out", "again", *TINY, "--context", "40", "--tokenizer", "new")
    assert tinyllama(*again).code == 0
    assert (tmp_path / "again" / "tokenizer.json").read_bytes() == (tmp_path / "new" / "tokenizer.json").read_bytes()
    assert_is_a_mistake(tinyllama(*again, "--vocab-size", "300"), "vocab_size: expected none beside a tokenizer")


@pytest.mark.parametrize(("size", "message"), [("100", "vocab_size: expected at least"), ("5000", "vocab_size: ")])
def test_a_vocabulary_that_cannot_be(size, message, tinyllama, tmp_path):
    result = tinyllama("train", "--data", "text.txt", "--out", "new", *TINY, "--vocab-size", size)
    assert_is_a_mistake(result, message)
    assert f"got {size}" in result.err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("arguments", "expected"), [
    ([], {"data": "stories", **PRESETS["stories"]}),
    (["--data", "text.txt"], {"data": "text.txt", "vocab_size": None, "steps": 2000}),
    (["--preset", "pocket"], {"data": "stories", **PRESETS["pocket"]}),
    (["--preset", "pocket", "--data", "text.txt", "--layers", "7"], {**PRESETS["pocket"], "data": "text.txt",
                                                                     "layers": 7}),
    (["--preset", "stories", "--tokenizer", "model"], {"vocab_size": None, "tokenizer": Path("model")}),
])
def test_a_preset_is_a_set_of_settings_that_options_override(arguments, expected, tinyllama, monkeypatch):
    received = []
    monkeypatch.setattr(run, "run_training", received.append)
    assert tinyllama("train", *arguments).code == 0
    assert {name: getattr(received[0], name) for name in expected} == expected


@pytest.mark.parametrize("name", ["huge", ""])
def test_an_unknown_preset_is_refused(name, tinyllama):
    assert_is_a_mistake(tinyllama("train", "--preset", name),
                        f"preset: expected one of 'pocket', 'stories', 'shakespeare', got '{name}'")


# ---- evaluate

def test_evaluate_prints_loss_perplexity_and_bits_per_byte(tinyllama, trained):
    result = tinyllama("evaluate", trained, "--data", "text.txt")
    assert (result.code, result.err) == (0, "")
    figures = dict(line.split(maxsplit=1) for line in result.out.splitlines() if not line.startswith("bits"))
    assert figures["predicted"] == "479 tokens, 479 bytes"
    loss = float(figures["loss"].split()[0])
    assert float(figures["perplexity"]) == pytest.approx(math.exp(loss), rel=1e-3)
    as_json = json.loads(tinyllama("evaluate", trained, "--data", "text.txt", "--json").out)
    assert as_json["loss"] == pytest.approx(loss, abs=1e-4)
    assert as_json["bits_per_byte"] == pytest.approx(as_json["loss"] / math.log(2))      # a character is a byte here
    assert (as_json["entropy"], as_json["excess"]) == (None, None)


def test_evaluate_refuses_what_it_cannot_read(tinyllama, trained, tmp_path):
    (tmp_path / "other.txt").write_text("the Zebra", encoding="utf-8")
    assert_is_a_mistake(tinyllama("evaluate", trained, "--data", "other.txt"), "position 4 holds 'Z'")
    assert_is_a_mistake(tinyllama("evaluate", "nowhere", "--data", "text.txt"), "got a path where nothing is")
    assert_is_a_mistake(tinyllama("evaluate", trained, "--data", "nowhere.txt"), "got a path where nothing is")


# ---- gradcheck

def test_gradcheck_prints_a_table(tinyllama):
    result = tinyllama("gradcheck", "silu", "linear")
    assert (result.code, result.err) == (0, "")
    rows = [line.split() for line in result.out.splitlines() if line.strip().endswith("right")]
    assert [row[0] for row in rows] == ["silu", "linear"]


def test_gradcheck_as_json_is_for_programs(tinyllama):
    result = tinyllama("gradcheck", "silu", "linear", "--json")
    assert (result.code, result.err) == (0, "")
    rows = json.loads(result.out)
    assert [row["name"] for row in rows] == ["silu"] + ["linear"] * (len(rows) - 1)
    for row in rows:
        assert set(row) == {"name", "label", "gradients", "error", "allowed", "failure"}
        assert 0 < row["error"] < row["allowed"] == 1e-7
        assert row["failure"] is None


def plant(monkeypatch, change):
    """Make SiLU's backward wrong for the command."""
    right = load_backend("numpy").silu_backward
    wrong = load_backend("numpy").with_ops(silu_backward=lambda dy, cache, needs=None: change(right(dy, cache, needs)))
    monkeypatch.setattr(gradient_table, "load_backend", lambda name: wrong)


def test_a_wrong_gradient_makes_gradcheck_fail_and_say_why(tinyllama, monkeypatch):
    plant(monkeypatch, lambda dx: -dx)
    result = tinyllama("gradcheck", "relu", "silu")
    assert result.code == 1
    words = {line.split()[0]: line.split()[-1] for line in result.out.splitlines() if line.strip()}
    assert (words["relu"], words["silu,"], words["silu"]) == ("right", "wrong.", "WRONG")
    assert "the gradient of x is wrong" in result.out
    assert "expected" in result.out


@pytest.mark.parametrize(("change", "has_error"), [(lambda dx: -dx, True), (lambda dx: dx[0], False)])
def test_a_wrong_gradient_in_json(change, has_error, tinyllama, monkeypatch):
    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    plant(monkeypatch, change)
    result = tinyllama("gradcheck", "silu", "--json")
    assert result.code == 1
    (row,) = json.loads(result.out, parse_constant=refuse)
    assert "the gradient of x" in row["failure"]
    assert (row["error"] is not None) == has_error


# ---- what goes wrong

@pytest.mark.parametrize(("arguments", "message"), [
    (["--data", "nowhere.txt"], "nowhere.txt: expected a UTF-8 text file, a folder of them, or the name of a corpus"),
    (["--data", "shakespear"], "did you mean shakespeare?"),
    (["--data", ""], "data: expected the path of a text file or a folder, or the name of a corpus (stories, "),
    (["--data", "empty.txt"], "empty.txt: expected a UTF-8 text file, got an empty one"),
    (["--data", "latin1.txt"], "latin1.txt: expected text in UTF-8, got byte 0xe9 at offset 3"),
    (["--data", "folder"], "folder: expected a folder with UTF-8 text files, got one without any file"),
    (["--data", "zeros.bin"], "zeros.bin: expected text in UTF-8, got a zero byte at offset 2"),
    (["--data", "short.txt"], "expected at least 90 tokens"),
    (["--context", "0"], "context: expected an integer of at least 1, got 0"),
    (["--batch-size", "0"], "batch_size: expected an integer of at least 1, got 0"),
    (["--backend", "abacus"], "got 'abacus'"),
    (["--heads", "3"], "num_attention_heads: expected a divisor of hidden_size=8, or a head_dim, got 3"),
    (["--heads", "0"], "num_attention_heads: expected a whole number of at least 1, got 0"),
    (["--key-value-heads", "4"], "num_key_value_heads: expected a divisor of num_attention_heads=2, got 4"),
    (["--intermediate-size", "0"], "intermediate_size: expected a whole number of at least 1, got 0"),
    (["--hidden-size", "0"], "hidden_size: expected a whole number of at least 1, got 0"),
    (["--layers", "-1"], "num_hidden_layers: expected a whole number of at least 1, got -1"),
    (["--steps", "-3"], "steps: expected a number above 0, got -3"),
    (["--learning-rate", "0"], "learning_rate: expected a number above 0, got 0.0"),
    (["--dropout", "1"], "dropout: expected 0 <= dropout < 1, got 1.0"),
    (["--seed", "-1"], "seed: expected a number of at least 0, got -1"),
    (["--workers", "0"], "workers: expected at least 1, or None, got 0"),
    (["--out", "text.txt"], "out: expected a directory, got the file text.txt"),
    (["--learning-rate", "inf"], "learning_rate: expected a number above 0, got inf"),
])
def test_train_refuses_what_cannot_be(arguments, message, tinyllama, tmp_path):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin1.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "short.txt").write_text(TEXT[:80], encoding="utf-8")
    (tmp_path / "zeros.bin").write_bytes(b"ab" + bytes(100))
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.iterdir())
    result = tinyllama("train", "--data", "text.txt", "--out", "new", *TINY, *arguments)
    assert_is_a_mistake(result, message)
    assert result.out == ""
    assert sorted(tmp_path.iterdir()) == before


def test_train_leaves_a_model_that_is_there_alone(tinyllama, model):
    before = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    assert_is_a_mistake(tinyllama("train", "--data", "text.txt", *TINY, "--out", "model"),
                        "out: expected a directory without a model, but model holds run.json")
    assert {path: path.read_bytes() for path in model.rglob("*") if path.is_file()} == before


def test_a_loss_that_is_no_number_is_said_once(tinyllama):
    result = tinyllama("train", "--data", "text.txt", *TINY, "--learning-rate", "1e30", "--out", "new")
    assert_is_a_mistake(result, "expected a number, got nan in step 2; try a learning rate below 1e+30")


def test_a_run_that_needs_more_memory_than_there_is(tinyllama):
    assert_is_a_mistake(tinyllama("train", "--data", "text.txt", *TINY, "--hidden-size", 4_000_000), "allocate")


def spoil(model, name, content):
    """Replace a file of a saved model, or take it away."""
    if content is None:
        (model / name).unlink()
    else:
        (model / name).write_bytes(content((model / name).read_bytes()))


@pytest.mark.parametrize(("name", "content", "message"), [
    ("model.safetensors", lambda data: data[:-1], "model.safetensors: expected safetensors, got"),
    ("model.safetensors", lambda data: data[:100], "model.safetensors: expected safetensors, got"),
    ("model.safetensors", lambda data: b"", "model.safetensors: expected safetensors, got"),
    ("model.safetensors", lambda data: TEXT.encode(), "model.safetensors: expected safetensors, got"),
    ("model.safetensors", None, "model.safetensors: expected the weights, got"),
    ("config.json", lambda data: data.replace(b'"intermediate_size": 24', b'"intermediate_size": 16'),
     "gate_proj.weight: expected the shape (16, 8), got (24, 8)"),
    ("config.json", lambda data: data.replace(b'"num_hidden_layers": 1', b'"num_hidden_layers": 2'),
     "got no such tensor"),
    ("config.json", lambda data: data.replace(b'"num_attention_heads": 2', b'"num_attention_heads": 3'),
     "expected a divisor of"),
    ("config.json", lambda data: data.replace(b'"model_type": "llama"', b'"model_type": "gpt2"'),
     "model_type: expected one of llama, mistral, qwen2, qwen3, phi3, tinyllama, got 'gpt2'"),
    ("config.json", lambda data: data[:50], "config.json: expected JSON, got"),
    ("config.json", None, "config.json: expected the configuration of a LLaMA, got"),
    ("tokenizer.json", lambda data: data[:20], "tokenizer.json: expected a tokenizer saved as JSON, got"),
    ("tokenizer.json", None, "holds tokenizer.json or tokenizer.model, got a directory without it"),
])
def test_generate_refuses_a_model_that_is_damaged(name, content, message, tinyllama, model):
    spoil(model, name, content)
    result = tinyllama("generate", "model")
    assert_is_a_mistake(result, message)
    assert result.out == ""


@pytest.mark.parametrize(("path", "message"), [
    ("nowhere", "nowhere: expected a model (a directory with config.json and weights, a GGUF file, or one of llama2.c"),
    ("text.txt", "text.txt: expected a model of llama2.c, got a file that is none"),
    (".", "config.json: expected the configuration of a LLaMA, got"),
])
def test_generate_refuses_what_is_no_model(path, message, tinyllama):
    assert_is_a_mistake(tinyllama("generate", path), message)


@pytest.mark.parametrize(("options", "message"), [
    (["--prompt", "the Zebra"], "position 4 holds 'Z' (U+005A), which is not among the 12 characters"),
    (["--prompt", ""], "expected at least one token, got an empty prompt"),
    (["--prompt", TEXT], "expected at most 8 tokens a row (max_position_embeddings), got 480"),
    (["--temperature", "-0.5"], "temperature: expected a number of at least 0, got -0.5"),
    (["--temperature", "nan"], "temperature: expected a number of at least 0, got nan"),
    (["--top-k", "0"], "top_k: expected at least 1, or None, got 0"),
    (["--top-p", "1.5"], "top_p: expected 0 < top_p <= 1, or None, got 1.5"),
    (["--min-p", "-1"], "min_p: expected 0 <= min_p <= 1, or None, got -1.0"),
    (["--max-new-tokens", "-1"], "max_new_tokens: expected at least 0, got -1"),
    (["--backend", "abacus"], "got 'abacus'"),
])
def test_generate_refuses_what_cannot_be_and_prints_nothing(options, message, tinyllama, trained):
    result = tinyllama("generate", trained, *options)
    assert_is_a_mistake(result, message)
    assert result.out == ""


@pytest.mark.parametrize(("arguments", "message"), [
    (["sillu"], "op: expected one of embedding, linear, "),
    (["silu", "sillu"], ", llama, got 'sillu'"),
    (["sillu", "--json"], "got 'sillu'"),
    (["--backend", "abacus"], "backend: expected one of 'numpy'"),
])
def test_gradcheck_refuses_what_it_does_not_know_and_prints_no_table(arguments, message, tinyllama):
    result = tinyllama("gradcheck", *arguments)
    assert_is_a_mistake(result, message)
    assert result.out == ""


@pytest.mark.parametrize(("arguments", "message"), [
    (["train", "--data", "nowhere.txt"], "nowhere.txt: expected a UTF-8 text file"),
    (["train", "--data", "text.txt", "--context", "8", "--steps", "-1"], "steps: expected a number above 0, got -1"),
    (["generate", "nowhere"], "got a path where nothing is"),
    (["generate", "model", "--prompt", "ünknown"], "position 0 holds 'ü' (U+00FC)"),
    (["gradcheck", "sillu"], "got 'sillu'"),
])
def test_a_process_ends_with_one_line_and_exit_code_2(arguments, message, model, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    result = in_a_process(*arguments, cwd=tmp_path)
    assert_is_a_mistake(result, message)
    assert result.out == ""


def test_a_terminal_without_unicode_gets_question_marks_and_no_error(model, tmp_path):
    (tmp_path / "text.txt").write_text("aé" * 100, encoding="utf-8")
    command = [sys.executable, "-m", "tinyllama.cli", "train", "--data", "text.txt", "--out", "new", *TINY]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True,
                          encoding="ascii", timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert "?" in done.stdout
    assert "Saved new" in done.stdout
