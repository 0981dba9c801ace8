"""A model written to disk and read back, and what is said of files that are not what they should be."""

import itertools
import json
import os
import pickle
import re
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
from tinyllama.formats import checkpoint, huggingface, read_checkpoint
from tinyllama.formats.architectures import write_config
from tinyllama.formats.checkpoint import SomeRows
from tinyllama.formats.loading import is_pickle

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
    assert text == json.dumps({**write_config(model.config), "torch_dtype": "float32"}, indent=2) + "\n"
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

    save_file(make(seed=1).parameters, tmp_path / "model.safetensors")      # from now on this is what counts, as in
    assert same(tl.load(tmp_path), make(seed=1))                            # transformers
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model-00002-of-00002.safetensors: expected the weights"):
        tl.load(tmp_path)
    save_file({name: tensors[name] for name in tensors}, tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(ValueError, match=r"model-00002-of-00002.safetensors: expected each tensor in one file only, "
                                         r"got .* in two"):
        tl.load(tmp_path)
    for name in ("../model.safetensors", "/etc/passwd", "..", "sub/model.safetensors", "C:model", "a\\b", "a\0b", ""):
        index = {"weight_map": {"model.norm.weight": name}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        with pytest.raises(ValueError, match=r"index.json: expected the names of files in its own directory, got '"):
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


# ---- dtypes and several files

@pytest.mark.parametrize("dtype, kind", [("float16", "F16"), ("bfloat16", "BF16"), ("float32", "F32"),
                                         ("float64", "F64"), (None, "F32")])
def test_a_model_is_saved_in_the_dtype_that_is_asked_for(tmp_path, dtype, kind):
    model = make()
    tl.save(model, tmp_path, dtype)
    with safe_open(tmp_path / "model.safetensors", framework="numpy") as file:
        assert {file.get_slice(name).get_dtype() for name in model.parameters} == {kind}
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["torch_dtype"] == dtype or "float32"
    loaded = tl.load(tmp_path)
    for name, array in model.parameters.items():
        rounded = array.astype(huggingface.DTYPES[dtype or "float32"]).astype(np.float32)
        np.testing.assert_array_equal(loaded.parameters[name], rounded, err_msg=name)
        assert dtype in (None, "float32", "float64") or not np.array_equal(rounded, array), name


def test_a_dtype_that_is_unknown_or_too_small_is_refused_and_nothing_is_left(tmp_path):
    tl.save(make(), tmp_path)
    with pytest.raises(ValueError, match=r"dtype: expected one of float64, float32, float16, bfloat16, or None, got"):
        tl.save(make(), tmp_path, "int8")
    for number, value in ((1e5, "100000"), (np.inf, None), (np.nan, None)):
        model = make()
        model.parameters["model.norm.weight"][3] = number
        if value is None:       # these float16 can hold
            tl.save(model, tmp_path / "other", "float16")
            np.testing.assert_array_equal(tl.load(tmp_path / "other").parameters["model.norm.weight"][3], number)
            continue
        with pytest.raises(ValueError, match=f"model.norm.weight: expected weights that float16 can .*, got {value}"):
            tl.save(model, tmp_path, "float16")
    assert names(tmp_path) == ["config.json", "model.safetensors", "other"]
    assert same(tl.load(tmp_path), make())


def test_a_large_model_is_written_in_several_files_with_an_index(tmp_path):
    model = make()
    tl.save(model, tmp_path, max_shard_bytes=6000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text(encoding="utf-8"))
    files = sorted(set(index["weight_map"].values()))
    count = len(files)
    assert count > 2
    assert files == [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    assert names(tmp_path) == sorted(["config.json", "model.safetensors.index.json", *files])
    assert set(index["weight_map"]) == set(model.parameters)
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in model.parameters.values())
    held = [load_file(tmp_path / file) for file in files]
    assert all(sum(array.nbytes for array in part.values()) <= 6000 for part in held)
    assert all(sum(array.nbytes for part in pair for array in part.values()) > 6000
               for pair in itertools.pairwise(held))
    assert same(tl.load(tmp_path), model)


def test_a_tensor_is_never_divided(tmp_path):
    tl.save(make(), tmp_path, max_shard_bytes=1)
    assert len(list(tmp_path.glob("model-*.safetensors"))) == len(make().parameters)
    assert same(tl.load(tmp_path), make())


def test_one_file_and_several_take_the_place_of_each_other(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    for seed, size in enumerate([10**9, 6000, 6000, 4000, 10**9, 6000]):
        tl.save(make(seed=seed), tmp_path, max_shard_bytes=size)
        assert same(tl.load(tmp_path), make(seed=seed))
        indexed = json.loads((tmp_path / "model.safetensors.index.json").read_text(encoding="utf-8"))["weight_map"] \
            if size < 10**9 else {"": "model.safetensors"}
        expected = {"config.json", "tokenizer.json", *indexed.values()} | \
            ({"model.safetensors.index.json"} if size < 10**9 else set())
        assert names(tmp_path) == sorted(expected)


# ---- reading in pieces

def test_rows_are_read_by_a_slice_and_by_their_numbers(tmp_path):
    tl.save(make(), tmp_path)
    tensor = read_checkpoint(tmp_path).tensors["model.embed_tokens.weight"]
    weight = make().parameters["model.embed_tokens.weight"]
    assert (tensor.shape, tensor.kind, tensor.quantized()) == ((31, 20), "F32", None)
    chosen = np.array([7, 3, 3, 30])
    some = SomeRows(tensor, np.arange(30, -1, -1))
    np.testing.assert_array_equal(tensor.read(), weight)
    for rows in (slice(2, 9), slice(20, 99), slice(40, 50), slice(9, 2), slice(1, 20, 3), slice(None, None, -1)):
        np.testing.assert_array_equal(tensor.read(rows), weight[rows])
        np.testing.assert_array_equal(SomeRows(tensor, range(31)).read(rows), weight[rows])
    np.testing.assert_array_equal(tensor.read(chosen), weight[chosen])
    np.testing.assert_array_equal(tensor.read(chosen[:0]), weight[:0])
    np.testing.assert_array_equal(some.read(chosen), weight[::-1][chosen])
    np.testing.assert_array_equal(some.read(slice(2, 9)), weight[::-1][2:9])
    part = SomeRows(tensor, range(4, 20))
    np.testing.assert_array_equal(part.read(slice(2, 9)), weight[6:13])
    np.testing.assert_array_equal(part.read(chosen[1:3]), weight[[7, 7]])
    assert part.shape == (16, 20)


@pytest.mark.parametrize("size", [1, 50, 10**9])
def test_the_size_of_the_pieces_does_not_show(tmp_path, monkeypatch, size):
    monkeypatch.setattr(checkpoint, "PIECE_BYTES", size)
    tl.save(make(), tmp_path)
    assert same(tl.load(tmp_path), make())


MEMORY = """
import sys
import tinyllama as tl

def anonymous():
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))

class Peak:
    value = 0
    def __init__(self, tensor): self.tensor = tensor
    def __getattr__(self, name): return getattr(self.tensor, name)
    def read(self, rows=slice(None)): return Read(self.tensor.read(rows))

class Read:
    def __init__(self, array): self.array = array
    def astype(self, dtype, copy):
        converted = self.array.astype(dtype, copy=copy)
        Peak.value = max(Peak.value, anonymous())
        return converted

from tinyllama.formats import read_checkpoint
from tinyllama.formats.checkpoint import build
tl.load_backend("numpy")
held = read_checkpoint(sys.argv[1])
before = anonymous()
model = build(held._replace(tensors={name: Peak(tensor) for name, tensor in held.tensors.items()}), backend="numpy")
peak = max(Peak.value, anonymous())
print((peak - before) / sum(array.nbytes for array in model.parameters.values()))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Only Linux says how much memory is anonymous.")
def test_loading_needs_little_more_memory_than_the_weights(tmp_path):
    config = tl.LlamaConfig(vocab_size=20_000, hidden_size=512, intermediate_size=1400, num_hidden_layers=4,
                            num_attention_heads=8, max_position_embeddings=131072)
    tl.save(tl.Llama(config, backend="numpy", seed=None), tmp_path, "bfloat16")
    output = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True)
    assert 0.9 < float(output.stdout) < 1.1


@pytest.mark.parametrize("quantization, bits", [("int8", 8), ("int4", 4)])
def test_a_model_is_quantised_while_it_is_loaded(tmp_path, backend, quantization, bits):
    settings = dict(hidden_size=64, intermediate_size=96, num_attention_heads=4, head_dim=8, tie_word_embeddings=True)
    tl.save(make(**settings), tmp_path)
    loaded = tl.load(tmp_path, backend=backend, quantization=quantization)
    expected = tl.quantize(tl.load(tmp_path, backend=backend), bits=bits)
    ids = [[3, 1, 3, 7]]
    np.testing.assert_array_equal(loaded.logits(ids), expected.logits(ids))
    assert not np.array_equal(loaded.logits(ids), make(**settings).logits(ids))


def test_floats_that_are_stored_stay_floats(tmp_path):
    tl.save(make(), tmp_path)
    np.testing.assert_allclose(tl.load(tmp_path, quantization="stored").logits([[3, 1]]), make().logits([[3, 1]]),
                               rtol=1e-5)


def test_what_does_not_go_with_quantisation_is_refused(tmp_path):
    tl.save(make(), tmp_path)
    with pytest.raises(ValueError, match=r"quantization: expected one of None, 'stored', 'int8', 'int4', got 'int3'"):
        tl.load(tmp_path, quantization="int3")
    with pytest.raises(ValueError, match=r"frozen: expected none with quantization='int8'"):
        tl.load(tmp_path, quantization="int8", frozen=["model.norm.*"])
    with pytest.raises(ValueError, match=r"weight: group_size: expected a divisor of the 20 columns, got 32"):
        tl.load(tmp_path, quantization="int4")


def test_a_model_that_is_larger_than_the_memory_is_refused(tmp_path, monkeypatch):
    tl.save(make(), tmp_path)
    monkeypatch.setattr(checkpoint, "memory_bytes", lambda: 1000)
    with pytest.raises(ValueError, match=r"expected a model that fits into the memory of this machine, 0.0 GB, got"):
        tl.load(tmp_path)


# ---- what is no directory

@pytest.mark.parametrize("start", [b"PK\x03\x04 a zip", b"\x80\x02\x8a\nl\xfc\x9cF", b"\x80\x04\x95\x10\0\0\0\0\0\0"])
def test_a_pickle_is_refused_unread(tmp_path, start):
    (tmp_path / "model.bin").write_bytes(start + bytes(100))
    with pytest.raises(ValueError, match=r"model.bin: expected a directory, GGUF or llama2.c, got a file of PyTorch, "
                                         r"which is a pickle: loading one can run any code .* Convert it"):
        tl.load(tmp_path / "model.bin")


def test_a_file_of_llama2c_is_no_pickle_whatever_its_first_size():
    assert not any(is_pickle(size.to_bytes(4, "little") + bytes(5)) for size in range(1 << 16))
    assert is_pickle(pickle.dumps([1, 2, 3])[:9])


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


def edit_header(old, new):
    """Replace something in the header of the weights, once."""
    def edit(directory):
        content = (directory / "model.safetensors").read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = content[8:8 + size].decode()
        assert old in header
        header = header.replace(old, new, 1).encode()
        (directory / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size:])
    return edit


def write(file, content):
    return lambda directory: (directory / file).write_bytes(content)


def cut_short(directory):
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def rename(tensors):
    tensors["model.layers.0.mlp.gate.weight"] = tensors.pop("model.layers.0.mlp.gate_proj.weight")


CONFIG, WEIGHTS = "config.json: ", "model.safetensors: "
MISMATCH = "the weights are not those that its configuration describes: "
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
    "other kind": (edit_config(model_type="mixtral"), ValueError, f"{CONFIG}model_type: expected one of .* 'mixtral'"),
    "missing key": (edit_config(hidden_size="REMOVED"), ValueError, f"{CONFIG}.*no hidden_size"),
    "text for a number": (edit_config(hidden_size="20"), ValueError, CONFIG),
    "bad number": (edit_config(rms_norm_eps=0), ValueError, f"{CONFIG}rms_norm_eps: expected a number above 0, got 0"),
    "too large a number": (edit_config(rms_norm_eps=10**400), ValueError, f"{CONFIG}.*too large"),
    "too large a model": (edit_config(vocab_size=10**15), ValueError, MISMATCH + "model.embed_tokens.weight: expected"),
    "too wide a model": (edit_config(hidden_size=10**15), ValueError, MISMATCH + "model.embed_tokens.weight: expect"),
    "too deep a model": (edit_config(num_hidden_layers=10**9), ValueError, "expected the number of layers in .* to be "
                         "that of the weights, which are 21 tensors, got num_hidden_layers=1000000000"),
    "too large a file": (lambda d: os.truncate(d / "config.json", 2**40), ValueError,
                         f"{CONFIG}expected at most 67108864 bytes of JSON, got 1099511627776"),
    "an absurd length of the header": (write("model.safetensors", (2**62).to_bytes(8, "little") + b"{}"), ValueError,
                                       f"{WEIGHTS}expected safetensors"),
    "an absurd shape in the header": (edit_header('[20]', '[4611686018427387904,4]'), ValueError,
                                      f"{WEIGHTS}expected safetensors"),
    "an offset beyond the end": (edit_header('"data_offsets":[0,', '"data_offsets":[99999999999,'), ValueError,
                                 f"{WEIGHTS}expected safetensors"),
    "sliding and full layers": (edit_config(model_type="qwen3", layer_types=["full_attention", "sliding_attention"]),
                                ValueError, f"{CONFIG}layer_types: expected"),
    "a pickle beside it": (lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"), ValueError,
                           f"{WEIGHTS}expected the weights as safetensors, got pytorch_model.bin, a file of PyTorch, "
                           "which is a pickle"),
    "unknown rotation": (edit_config(rope_scaling={"rope_type": "yarn"}), ValueError, f"{CONFIG}rope_scaling: .*yarn"),
    "missing tensor": (edit_weights(lambda t: t.pop("model.norm.weight")), ValueError,
                       MISMATCH + r"model.norm.weight: expected the shape \(20,\), got no such tensor$"),
    "unexpected tensor": (edit_weights(lambda t: t.update(extra=np.ones((3, 2)))), ValueError,
                          MISMATCH + r"extra: expected no such tensor, got one of the shape \(3, 2\)$"),
    "other name": (edit_weights(rename), ValueError, MISMATCH + "model.layers.0.mlp.gate_proj.weight: .* no such tens"
                   "or; model.layers.0.mlp.gate.weight: expected no such"),
    "other shape": (edit_config(vocab_size=30), ValueError, MISMATCH + r"model.embed_tokens.weight: expected the shape "
                    r"\(30, 20\), got \(31, 20\); lm_head"),
    "other depth": (edit_config(num_hidden_layers=1), ValueError, MISMATCH + ".*model.layers.1.*; and 4 more$"),
    "other kind of number": (edit_weights(lambda t: t.update({"model.norm.weight": np.ones(20, dtype=np.int8)})),
                             ValueError, f"{WEIGHTS}model.norm.weight: expected one of F64, F32, F16, BF16, got I8"),
}


@pytest.mark.parametrize("damage, error, message", BROKEN.values(), ids=BROKEN)
def test_a_damaged_directory_is_refused_by_name(tmp_path, damage, error, message):
    directory = tmp_path / "model (1)"
    tl.save(make(), directory)
    damage(directory)
    with pytest.raises(error, match=message) as caught:
        tl.load(directory)
    assert str(caught.value).startswith(str(directory))


def test_paths_that_are_no_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: expected a model .* got a path where nothing is"):
        tl.load(tmp_path / "nowhere")
    tl.save(make(), tmp_path / "model")
    with pytest.raises(ValueError, match=r"safetensors: expected a directory .* got a file of safetensors; load the"):
        tl.load(tmp_path / "model" / "model.safetensors")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match=r"file: expected a directory to save the model in, got a file"):
        tl.save(make(), tmp_path / "file")


def test_damaged_directories_are_refused_whatever_is_damaged(tmp_path):
    # One error that names the directory, or a model: no other exception, and no memory that a header asks for.
    tl.save(make(num_hidden_layers=1), tmp_path / "one")
    tl.save(make(num_hidden_layers=1, qk_norm=True), tmp_path / "several", max_shard_bytes=3000)
    rng, refused = np.random.default_rng(7), 0
    for directory in (tmp_path / "one", tmp_path / "several"):
        files = [directory / name for name in names(directory)]
        contents = {file: file.read_bytes() for file in files}
        for _ in range(2000):
            file = files[rng.integers(len(files))]
            file.write_bytes(mutated(contents[file], rng))
            try:
                tl.load(directory, backend="numpy")
            except (ValueError, FileNotFoundError) as error:
                assert str(error).startswith(str(directory))
                refused += 1
            file.write_bytes(contents[file])
        assert tl.load(directory, backend="numpy")
    assert refused > 2000


INTERESTING = (b"0", b"-1", b"99999999999999999999", b"1e400", b"null", b"true", b'"x"', b"[]", b"{}", b"[[", b"\xff",
               b"\0", b"NaN", b"3")


def mutated(content, rng):
    """A few changes: bytes, pieces that are cut out or doubled, numbers and words of JSON that are exchanged."""
    content = bytearray(content)
    header = min(len(content), 2000)        # most of what a reader looks at
    for _ in range(rng.integers(1, 4)):
        place, length = int(rng.integers(header)), int(rng.integers(1, 12))
        kind = rng.integers(5)
        if kind == 0:
            content[place:place + 1] = rng.bytes(1)
        elif kind == 1:
            del content[place:place + length]
        elif kind == 2:
            content[place:place] = content[place:place + length]
        elif kind == 3:
            content[place:] = content[place + length:]
        else:
            values = [match.span() for match in re.finditer(rb'(?<=[:\[,])\s*("[^"]*"|[^,\]}\s]+)', content[:header])]
            if values:
                start, stop = values[rng.integers(len(values))]
                content[start:stop] = INTERESTING[rng.integers(len(INTERESTING))]
    return bytes(content)


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
import json, os, pathlib, sys
import tinyllama as tl
from tinyllama.formats import huggingface

directory, config, function, call = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], int(sys.argv[4])
module = {"save_file": huggingface, "replace": os, "unlink": os}[function]
if function == "unlink":
    pathlib.Path.unlink = lambda self, missing_ok=False: os.unlink(self) if self.exists() else None
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
tl.save(model, directory, max_shard_bytes=int(sys.argv[5]))
"""


ONE, SEVERAL = 10**9, 9000          # sizes of a file that all weights fit into, and of one that they do not


@pytest.mark.parametrize("before, after, function, call, survivor", [
    (ONE, ONE, "save_file", 1, "old"), (ONE, ONE, "replace", 1, "old"), (ONE, ONE, "replace", 2, "new"),
    (SEVERAL, SEVERAL, "save_file", 2, "old"), (SEVERAL, SEVERAL, "replace", 1, "old"),
    (SEVERAL, SEVERAL, "replace", 2, "new"), (SEVERAL, SEVERAL, "unlink", 1, "new"),
    (ONE, SEVERAL, "save_file", 2, "old"), (ONE, SEVERAL, "replace", 1, "old"), (ONE, SEVERAL, "replace", 2, "old"),
    (ONE, SEVERAL, "replace", 3, "new"), (ONE, SEVERAL, "unlink", 1, "new"),
    (SEVERAL, ONE, "replace", 1, "old"), (SEVERAL, ONE, "replace", 2, "new"), (SEVERAL, ONE, "unlink", 1, "new"),
    (SEVERAL, ONE, "unlink", 2, "new"),
])
def test_a_process_that_dies_leaves_the_old_checkpoint_or_the_new_one(
        tmp_path, monkeypatch, before, after, function, call, survivor):
    directory = tmp_path / "interrupted"
    tl.save(make(**OLD), directory, max_shard_bytes=before)
    arguments = [str(directory), json.dumps(SMALL | {"rope_theta": 77.0}), function, str(call), str(after)]
    assert subprocess.run([sys.executable, "-c", CRASH, *arguments], check=False).returncode == 9

    def survived(directory):
        loaded = tl.load(directory)
        if survivor == "old":
            return same(loaded, make(**OLD))
        return loaded.config.rope_theta == 77 and all(np.all(array == 7) for array in loaded.parameters.values())

    assert survived(directory)
    for last in (ONE, SEVERAL):     # what was left behind must not mislead the next save, even if that fails too
        copy = shutil.copytree(directory, tmp_path / str(last))
        for module, name in ((huggingface, "save_file"), (os, "replace")):
            with monkeypatch.context() as patch:
                fail_at(patch, module, name, 1)
                with pytest.raises(OSError, match="no space left"):
                    tl.save(make(**NEW), copy, max_shard_bytes=last)
            assert survived(copy)
        tl.save(make(**NEW), copy, max_shard_bytes=last)
        assert same(tl.load(copy), make(**NEW))
        assert names(copy) == sorted(expected_names(copy, last))


def expected_names(directory, size):
    """The files of a checkpoint, and nothing that an interrupted save left."""
    if size == ONE:
        return {"config.json", "model.safetensors"}
    index = json.loads((directory / "model.safetensors.index.json").read_text(encoding="utf-8"))
    return {"config.json", "model.safetensors.index.json", *index["weight_map"].values()}


@pytest.mark.parametrize("before, after, function, call", [
    (ONE, SEVERAL, "save_file", 2), (ONE, SEVERAL, "replace", 1), (ONE, SEVERAL, "replace", 2),
    (SEVERAL, SEVERAL, "replace", 1), (SEVERAL, ONE, "replace", 1),
])
def test_a_save_in_several_files_that_fails_leaves_the_old_checkpoint_alone(
        tmp_path, monkeypatch, before, after, function, call):
    tl.save(make(**OLD), tmp_path, max_shard_bytes=before)
    there = names(tmp_path)
    with monkeypatch.context() as patch:
        fail_at(patch, huggingface if function == "save_file" else os, function, call)
        with pytest.raises(OSError, match="no space left"):
            tl.save(make(**NEW), tmp_path, max_shard_bytes=after)
    assert same(tl.load(tmp_path), make(**OLD))
    assert names(tmp_path) == there
