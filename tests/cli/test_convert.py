"""`tinyllama convert` as a user types it."""

import shutil

import llama2c_files as files
import pytest
from command_line import assert_is_a_mistake, command_line

import tinyllama as tl


@pytest.fixture
def tinyllama(monkeypatch, capsys, tmp_path, rng):
    """`tinyllama("convert", "model.bin", "made")` in the directory of the test, where model.bin is."""
    (tmp_path / "model.bin").write_bytes(files.version_0(*files.random_weights(rng)))
    return command_line(monkeypatch, capsys, tmp_path)


def test_it_says_what_it_wrote(tinyllama, tmp_path):
    result = tinyllama("convert", "model.bin", "made", "--dtype", "bfloat16")
    weights = sum(array.size for array in tl.load(tmp_path / "model.bin").parameters.values())
    assert (result.code, result.err) == (0, "")
    written, without = result.out.splitlines()
    assert written == f"Wrote made: {weights:,} weights in bfloat16, with llama2c_tables.safetensors."
    assert without.startswith("Without a tokenizer: tokenizer.bin: expected a tokenizer's file")
    assert {path.name for path in (tmp_path / "made").iterdir()} == {"config.json", "model.safetensors",
                                                               "llama2c_tables.safetensors"}


def test_a_real_model_goes_along_with_its_tokenizer_and_writes_its_story(tinyllama, shared_data, tmp_path):
    shutil.copy(shared_data / "stories260K.bin", tmp_path / "model.bin")
    result = tinyllama("convert", "model.bin", "made", "--force", "--tokenizer", shared_data / "tok512.bin")
    assert (result.code, result.err) == (0, "")
    assert result.out == "Wrote made: 260,032 weights in float32, with tokenizer.json, llama2c_tables.safetensors.\n"
    result = tinyllama("generate", "made", "--prompt", "Once upon a time,", "--temperature", 0, "--max-new-tokens", 20,
                       "--backend", "numpy")
    assert result.out.startswith("Once upon a time, there was a little girl named Lily.")


def test_there_and_back_with_force(tinyllama, tmp_path):
    before = (tmp_path / "model.bin").read_bytes()
    assert tinyllama("convert", "model.bin", "made").code == 0
    assert_is_a_mistake(tinyllama("convert", "made", "model.bin"),
                        "model.bin: expected a path without a model, got one with model.bin; --force replaces it")
    result = tinyllama("convert", "made", "model.bin", "--force")
    assert (result.code, result.err) == (0, "")
    assert (tmp_path / "model.bin").read_bytes() == before


@pytest.mark.parametrize("arguments, message", [
    (["nowhere", "made"], "nowhere: expected a model"),
    (["model.bin", "made", "--dtype", "int3"], "dtype: expected one of float32, float16, bfloat16, got 'int3'"),
    (["model.bin", "made", "--tokenizer", "nowhere.json"], "nowhere.json: expected a tokenizer's file"),
    (["model.bin", "model.bin", "--force"], "expected another path than that of the source"),
    (["model.bin", ""], "expected a path, got an empty text"),
    (["model.bin"], "Missing argument 'DST'"),
])
def test_a_mistake_is_one_line_and_nothing_is_written(arguments, message, tinyllama, tmp_path):
    assert_is_a_mistake(tinyllama("convert", *arguments), message)
    assert [path.name for path in tmp_path.iterdir()] == ["model.bin"]


def test_a_damaged_file(tinyllama, tmp_path):
    (tmp_path / "model.bin").write_bytes((tmp_path / "model.bin").read_bytes()[:-3])
    assert_is_a_mistake(tinyllama("convert", "model.bin", "made"), "model.bin: expected a model of llama2.c")
    assert not (tmp_path / "made").exists()


def test_the_help_shows_every_option(tinyllama):
    result = tinyllama("convert", "--help")
    assert (result.code, result.err) == (0, "")
    options = ("SRC", "DST", "--dtype", "--tokenizer", "--force")
    assert [option for option in options if option not in result.out] == []
    described = [line for line in result.out.splitlines() if line.lstrip("│ *").startswith("--")]
    assert len(described) == sum(option.startswith("--") for option in options) + 1     # and --help
