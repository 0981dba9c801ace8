"""A model written to disk and read back, and what is said of files that are not what they should be."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import llama_cases as cases
import numpy as np
import pytest
import strict_device
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

import tinyllama as tl
from tinyllama.formats import huggingface

SMALL = dict(vocab_size=31, hidden_size=20, intermediate_size=26, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, head_dim=6)
OWN = {
    "gpt-2 parts": dict(norm="layernorm", mlp="gelu", positions="learned", attention_bias=True, mlp_bias=True),
    "shared layers": dict(num_hidden_layers=5, num_unique_layers=2, positions="none", mlp="relu"),
    "window": dict(sliding_window=3, dropout=0.1, positions="sinusoidal", tie_word_embeddings=True),
}
CONFIGS = {name: cases.config(name) for name in cases.CASES} | \
    {name: tl.LlamaConfig(**SMALL | extra) for name, extra in OWN.items()}


def make(dtype="float32", seed=0, **settings):
    """A model with no parameter at the value that it usually begins with."""
    model = tl.Llama(tl.LlamaConfig(**SMALL | settings), dtype=dtype, seed=seed)
    model.parameters.trainable[...] = np.random.default_rng(seed).normal(size=model.parameters.trainable.size)
    return model


def same(one, other):
    return one.config == other.config and set(one.parameters) == set(other.parameters) and all(
        np.array_equal(one.parameters[name], other.parameters[name]) for name in one.parameters)


def names(directory):
    return sorted(file.name for file in directory.iterdir())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CONFIGS)
def test_what_was_saved_is_loaded_bit_for_bit(tmp_path, name, dtype):
    model = tl.Llama(CONFIGS[name], dtype=dtype)
    for array in model.parameters.values():
        array[...] = np.random.default_rng(array.size).normal(size=array.shape)
    tl.save(model, tmp_path)
    loaded = tl.load(tmp_path, dtype=dtype)
    assert same(loaded, model)
    assert loaded.dtype == model.dtype
    ids = [[3, 1, 3, 7]]
    np.testing.assert_array_equal(loaded.logits(ids), model.logits(ids))


def test_the_directory_is_as_hugging_face_has_it(tmp_path):
    model = make(tie_word_embeddings=True, eos_token_id=(1, 2))
    tl.save(model, tmp_path / "made" / "on the way")
    directory = tmp_path / "made" / "on the way"
    assert names(directory) == ["config.json", "model.safetensors"]
    text = (directory / "config.json").read_text(encoding="utf-8")
    assert text == json.dumps(model.config.to_dict(), indent=2) + "\n"
    with safe_open(directory / "model.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == set(model.parameters)        # so the tied head and the fused views are not there
    assert (directory / "model.safetensors").stat().st_mode == (directory / "config.json").stat().st_mode


def test_other_files_of_the_directory_stay(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    (tmp_path / "runs").mkdir()
    for seed in range(2):
        tl.save(make(seed=seed), str(tmp_path))
        assert names(tmp_path) == ["config.json", "model.safetensors", "runs", "tokenizer.json"]
    assert same(tl.load(str(tmp_path)), make(seed=1))


def test_numbers_of_numpy_in_a_config(tmp_path):
    model = make(vocab_size=np.int64(31), rms_norm_eps=np.float32(0.25))
    tl.save(model, tmp_path)
    assert tl.load(tmp_path).config == model.config


def test_other_dtypes_are_converted(tmp_path):
    model = make("float64")
    tl.save(model, tmp_path)
    np.testing.assert_array_equal(tl.load(tmp_path, dtype="float32").parameters["lm_head.weight"],
                                  model.parameters["lm_head.weight"].astype(np.float32))
    halves = {name: array.astype(np.float16) for name, array in model.parameters.items()}
    save_file(halves, tmp_path / "model.safetensors")
    loaded = tl.load(tmp_path)
    assert {array.dtype for array in loaded.parameters.values()} == {np.dtype("float32")}
    assert all(np.array_equal(loaded.parameters[name], half) for name, half in halves.items())


def test_the_settings_of_a_model_are_handed_on(tmp_path):
    tl.save(make(), tmp_path)
    model = tl.load(tmp_path, frozen=["model.embed_tokens.*"], workers=2)
    assert model.workers == 2
    assert model.parameters.frozen.size == 31 * 20 + 4      # with the padding to whole cache lines
    assert same(model, make())
    tl.save(model, tmp_path)
    assert same(tl.load(tmp_path), make())


def test_to_a_device_and_back(tmp_path):
    tl.save(make(), tmp_path)
    model = tl.load(tmp_path, backend=strict_device.backend())
    ids = [[3, 1, 3, 7]]
    np.testing.assert_array_equal(model.logits(ids).get(), tl.load(tmp_path, backend="numpy").logits(ids))
    tl.save(model, tmp_path)
    assert same(tl.load(tmp_path), make())


def test_a_checkpoint_in_several_files(tmp_path):
    tl.save(make(), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    parts = {"model-00001-of-00002.safetensors": list(tensors)[:7], "model-00002-of-00002.safetensors":
             list(tensors)[7:]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert same(tl.load(tmp_path), make())

    tl.save(make(seed=1), tmp_path)         # from now on the single file is what counts, as in transformers
    assert same(tl.load(tmp_path), make(seed=1))
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model-00002-of-00002.safetensors: expected the weights"):
        tl.load(tmp_path)
    for index in ({"metadata": {}}, {"weight_map": {"model.norm.weight": 3}}):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        with pytest.raises(ValueError, match=r'index.json: expected "weight_map"'):
            tl.load(tmp_path)


def test_tensors_that_say_nothing_new_are_ignored(tmp_path):
    tl.save(make(tie_word_embeddings=True), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(3, dtype=np.float32)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    save_file(tensors, tmp_path / "model.safetensors")
    assert same(tl.load(tmp_path), make(tie_word_embeddings=True))

    tensors["lm_head.weight"][3, 4] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"lm_head.weight: expected the same as model.embed_tokens.weight"):
        tl.load(tmp_path)


# ---- errors

def edit_config(**changes):
    def edit(directory):
        settings = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        settings = {key: value for key, value in (settings | changes).items() if value != "REMOVED"}
        (directory / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    return edit


def edit_weights(change):
    def edit(directory):
        tensors = load_file(directory / "model.safetensors")
        change(tensors)
        save_file(tensors, directory / "model.safetensors")
    return edit


def write(file, content):
    return lambda directory: (directory / file).write_bytes(content)


def cut_short(directory):
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def rename(tensors):
    tensors["model.layers.0.mlp.gate.weight"] = tensors.pop("model.layers.0.mlp.gate_proj.weight")


CONFIG, WEIGHTS = "config.json: ", "model.safetensors: "
MISMATCH = "the weights are not those that config.json describes: "
BROKEN = {
    "no config": (lambda d: (d / "config.json").unlink(), FileNotFoundError, f"{CONFIG}expected the configuration"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), FileNotFoundError, f"{WEIGHTS}expected the weights"),
    "cut short": (cut_short, ValueError, f"{WEIGHTS}expected safetensors, got a file of another kind or one .* cut"),
    "empty": (write("model.safetensors", b""), ValueError, f"{WEIGHTS}expected safetensors"),
    "foreign": (write("model.safetensors", b"PK\x03\x04" * 99), ValueError, f"{WEIGHTS}expected safetensors"),
    "no JSON": (write("config.json", b'{"vocab_size": 3'), ValueError, f"{CONFIG}expected JSON, got a file that is no"),
    "no text": (write("config.json", b"\xff\xfe\x00"), ValueError, f"{CONFIG}expected JSON, got a file that is not"),
    "no end": (write("config.json", b"[" * 200_000), ValueError, f"{CONFIG}expected JSON, got a file that is not"),
    "no object": (write("config.json", b"[1, 2]"), ValueError, rf"{CONFIG}expected a JSON object, .* kind: \[1, 2\]"),
    "other kind": (edit_config(model_type="mistral"), ValueError, f"{CONFIG}model_type: expected 'llama' .* 'mistral'"),
    "missing key": (edit_config(hidden_size="REMOVED"), ValueError, f"{CONFIG}.*no hidden_size"),
    "text for a number": (edit_config(hidden_size="20"), ValueError, CONFIG),
    "bad number": (edit_config(rms_norm_eps=0), ValueError, f"{CONFIG}rms_norm_eps: expected a number above 0, got 0"),
    "too large a number": (edit_config(rms_norm_eps=10**400), ValueError, f"{CONFIG}.*too large"),
    "too large a model": (edit_config(vocab_size=10**9), ValueError, MISMATCH + "model.embed_tokens.weight: expected"),
    "unknown rotation": (edit_config(rope_scaling={"rope_type": "yarn"}), ValueError, f"{CONFIG}rope_scaling: .*yarn"),
    "missing tensor": (edit_weights(lambda t: t.pop("model.norm.weight")), ValueError,
                       MISMATCH + r"model.norm.weight: expected the shape \(20,\), got no such tensor$"),
    "unexpected tensor": (edit_weights(lambda t: t.update(extra=np.ones((3, 2)))), ValueError,
                          MISMATCH + r"extra: expected no such tensor, got one of the shape \(3, 2\)$"),
    "other name": (edit_weights(rename), ValueError, MISMATCH + "model.layers.0.mlp.gate_proj.weight: .* no such tens"
                   "or; model.layers.0.mlp.gate.weight: expected no such"),
    "other shape": (edit_config(vocab_size=30), ValueError, MISMATCH + r"model.embed_tokens.weight: expected the shape "
                    r"\(30, 20\), got \(31, 20\)$"),
    "other depth": (edit_config(num_hidden_layers=1), ValueError, MISMATCH + ".*model.layers.1.*; and 4 more$"),
    "other kind of number": (edit_weights(lambda t: t.update({"model.norm.weight": np.ones(20, dtype=np.int8)})),
                             ValueError, MISMATCH + "model.norm.weight: expected one of F64, F32, F16, got I8"),
}


@pytest.mark.parametrize("damage, error, message", BROKEN.values(), ids=BROKEN)
def test_a_damaged_directory_is_refused_by_name(tmp_path, damage, error, message):
    directory = tmp_path / "model (1)"
    tl.save(make(), directory)
    damage(directory)
    with pytest.raises(error, match=message) as caught:
        tl.load(directory)
    assert str(caught.value).startswith(str(directory))


def test_bfloat16_is_refused_by_name(tmp_path):
    tl.save(make(), tmp_path)
    header = b'{"model.norm.weight":{"dtype":"BF16","shape":[20],"data_offsets":[0,40]}}'
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(40))
    with pytest.raises(ValueError, match=r"model.norm.weight: expected one of F64, F32, F16, got BF16"):
        tl.load(tmp_path)


def test_paths_that_are_no_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: expected a directory .* got a path where nothing is"):
        tl.load(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match=r"file: expected a directory with config.json .* got a file"):
        tl.load(tmp_path / "file")
    with pytest.raises(ValueError, match=r"file: expected a directory to save the model in, got a file"):
        tl.save(make(), tmp_path / "file")


# ---- a save that does not come to its end. Old and new differ in what no shape betrays: the rotation.

OLD, NEW = dict(seed=0, rope_theta=500.0), dict(seed=1, rope_theta=20000.0)


def fail_at(monkeypatch, module, name, call):
    """Let the given call of a function raise OSError; the writer of the weights leaves half a file before."""
    original, calls = getattr(module, name), []

    def failing(*args, **kwargs):
        calls.append(name)
        if len(calls) == call:
            if name == "save_file":
                Path(args[1]).write_bytes(b"half")
            raise OSError("no space left on device")
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, failing)


@pytest.mark.parametrize("module, function, call", [
    (huggingface, "save_file", 1), (Path, "write_text", 1), (shutil, "copymode", 1), (os, "fsync", 1), (os, "fsync", 2),
    (os, "replace", 1)])
def test_a_save_that_fails_leaves_the_old_checkpoint_and_nothing_else(tmp_path, monkeypatch, module, function, call):
    tl.save(make(**OLD), tmp_path)
    with monkeypatch.context() as patch:
        fail_at(patch, module, function, call)
        with pytest.raises(OSError, match="no space left"):
            tl.save(make(**NEW), tmp_path)
    assert same(tl.load(tmp_path), make(**OLD))
    assert names(tmp_path) == ["config.json", "model.safetensors"]


def test_a_full_disk_is_an_operating_system_error_whoever_notices_it(tmp_path, monkeypatch):
    def failing(*args, **kwargs):
        raise SafetensorError("I/O error: no space left on device")

    monkeypatch.setattr(huggingface, "save_file", failing)
    with pytest.raises(OSError, match=r"model.safetensors.new: the weights could not be written .*no space left"):
        tl.save(make(), tmp_path)


def test_a_save_that_fails_at_the_very_end_leaves_the_new_checkpoint(tmp_path, monkeypatch):
    tl.save(make(**OLD), tmp_path)
    with monkeypatch.context() as patch:
        fail_at(patch, os, "replace", 2)
        with pytest.raises(OSError, match="no space left"):
            tl.save(make(**NEW), tmp_path)
    assert same(tl.load(tmp_path), make(**NEW))


CRASH = """
import json, os, sys
import tinyllama as tl
from tinyllama.formats import huggingface

directory, config, function, call = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], int(sys.argv[4])
module = {"save_file": huggingface, "replace": os}[function]
original, calls = getattr(module, function), []

def crashing(*args, **kwargs):
    calls.append(function)
    if len(calls) == call:
        if function == "save_file":
            open(args[1], "wb").write(b"half")
        os._exit(9)             # no exception, no clean-up
    return original(*args, **kwargs)

setattr(module, function, crashing)
model = tl.Llama(tl.LlamaConfig(**config))
model.parameters.trainable[...] = 7
tl.save(model, directory)
"""


@pytest.mark.parametrize("function, call, survivor", [("save_file", 1, "old"), ("replace", 1, "old"),
                                                      ("replace", 2, "new")])
def test_a_process_that_dies_leaves_the_old_checkpoint_or_the_new_one(tmp_path, monkeypatch, function, call, survivor):
    tl.save(make(**OLD), tmp_path)
    arguments = [str(tmp_path), json.dumps(SMALL | {"rope_theta": 77.0}), function, str(call)]
    assert subprocess.run([sys.executable, "-c", CRASH, *arguments], check=False).returncode == 9

    def survived():
        loaded = tl.load(tmp_path)
        if survivor == "old":
            return same(loaded, make(**OLD))
        return loaded.config.rope_theta == 77 and all(np.all(array == 7) for array in loaded.parameters.values())

    assert survived()
    with monkeypatch.context() as patch:        # what was left behind must not mislead the next save, if that fails too
        fail_at(patch, huggingface, "save_file", 1)
        with pytest.raises(OSError, match="no space left"):
            tl.save(make(**NEW), tmp_path)
    assert survived()
    tl.save(make(**NEW), tmp_path)
    assert same(tl.load(tmp_path), make(**NEW))
    assert names(tmp_path) == ["config.json", "model.safetensors"]
