"""llama2.c's files, in all three versions: what is in them is what the model gets, and what we write they can hold."""

import functools
import json
import random
import struct
import tracemalloc

import llama2c_files as files
import numpy as np
import pytest

import tinyllama as tl
from tinyllama.formats import llama2c
from tinyllama.formats.checkpoint import build
from tinyllama.formats.llama2c import read_checkpoint
from tinyllama.formats.rotary_pairing import is_rotated, to_half_split
from tinyllama.ops import rope_forward
from tinyllama.ops.quantized_linear import dequantize

VERSIONS = ("0", "1", "2")
IDS = [[3, 1, 12, 7, 3, 0, 5], [2, 2, 9, 11, 4, 8, 6]]


def contents(version, rng, *, is_tied=True, **sizes):
    """(the bytes of a file, its config, {name: what it holds}), q and k in the interleaved pairing of the file."""
    config, weights = files.random_weights(rng, is_tied=is_tied, **sizes)
    if version == "2":
        data, weights = files.version_2(config, weights)
    else:
        data = {"0": files.version_0, "1": files.version_1}[version](config, weights)
    return data, config, weights


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture
def file(tmp_path):
    """A function that writes bytes to a file and returns its path."""
    def write(data):
        (tmp_path / "model.bin").write_bytes(data)
        return tmp_path / "model.bin"
    return write


# ---- reading

@pytest.mark.parametrize("is_tied", [True, False])
def test_every_number_of_the_file_is_in_its_place(version, is_tied, file, rng):
    data, config, weights = contents(version, rng, is_tied=is_tied)
    checkpoint = read_checkpoint(file(data))
    assert checkpoint.config == config
    assert set(checkpoint.tensors) == set(weights)
    model = build(checkpoint, backend="numpy")
    for name, weight in weights.items():
        expected = weight[to_half_split(len(weight), config.head_dim)] if is_rotated(name) else weight
        np.testing.assert_array_equal(model.parameters[name], expected, err_msg=name)
        np.testing.assert_array_equal(checkpoint.tensors[name].read(), expected, err_msg=name)
        rows = np.array([2, 0, 2, len(weight) - 1])
        np.testing.assert_array_equal(checkpoint.tensors[name].read(rows), expected[rows], err_msg=name)
        np.testing.assert_array_equal(checkpoint.tensors[name].read(slice(1, 3)), expected[1:3], err_msg=name)


def test_the_model_of_the_file_is_that_of_the_interleaved_rotation(version, file, rng):
    data, config, weights = contents(version, rng, is_tied=False)
    interleaved = tl.load_backend("numpy").with_ops(rope_forward=functools.partial(rope_forward, interleaved=True))
    reference = tl.Llama(config, interleaved, "float64", seed=None)
    for name, weight in weights.items():
        reference.parameters[name][...] = weight
    logits = tl.load(file(data), "numpy", "float64").logits(IDS)
    np.testing.assert_allclose(logits, reference.logits(IDS), rtol=0, atol=1e-10)


def test_the_kinds_are_named_and_the_whole_numbers_are_those_of_the_file(version, file, rng):
    data, _, _ = contents(version, rng)
    for name, tensor in read_checkpoint(file(data)).tensors.items():
        held, is_matrix = tensor.quantized(), len(tensor.shape) == 2
        assert tensor.kind == ("Q8_0/8" if version == "2" and is_matrix else "F32")
        assert (held is not None) == (version == "2" and is_matrix)
        if held is not None:
            held.check()
            assert held.shape == tensor.shape
            assert held.scales.dtype == np.float32
            # a group of 8 does not divide the 20 columns of down_proj: its halves do
            assert held.shape[1] / held.scales.shape[1] == (4 if "down_proj" in name else 8)
            np.testing.assert_array_equal(dequantize(held, slice(None)), tensor.read())


def test_a_quantised_model_computes_with_the_numbers_of_the_file(file, rng):
    data, _, _ = contents("2", rng)
    path = file(data)
    floats, stored = (tl.load(path, "numpy", quantization=quantization).logits(IDS)
                      for quantization in (None, "stored"))
    np.testing.assert_allclose(stored, floats, rtol=0, atol=1e-5 * np.max(np.abs(floats)))


def test_it_is_read_where_somebody_asks_for_it_and_not_before(file, rng):
    data, _, _ = contents("0", rng, hidden_size=512, intermediate_size=1024, vocab_size=2000)
    path = file(data)
    tracemalloc.start()
    checkpoint = read_checkpoint(path)
    checkpoint.tensors["model.embed_tokens.weight"].read(slice(3, 5))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(data) / 20


def test_a_weight_that_is_no_number_stays(file, rng):
    config, weights = files.random_weights(rng)
    weights["model.layers.1.self_attn.k_proj.weight"][3, 2] = np.nan
    weights["model.norm.weight"][1] = -np.inf
    model = tl.load(file(files.version_0(config, weights)), "numpy")
    assert np.isnan(model.parameters["model.layers.1.self_attn.k_proj.weight"]).sum() == 1
    assert model.parameters["model.norm.weight"][1] == -np.inf


def test_a_vocabulary_without_the_usual_tokens(file, rng):
    config, weights = files.random_weights(rng, vocab_size=3)
    assert read_checkpoint(file(files.version_0(config, weights))).config.end_tokens == (1, 2)
    header = list(struct.unpack("<7i", files.version_0(config, weights)[:28]))
    del weights["model.embed_tokens.weight"]
    header[5] = 1
    table = np.zeros((1, 24), "f4")
    data = struct.pack("<7i", *header) + files.version_0(config, {**weights, "model.embed_tokens.weight": table})[28:]
    config = read_checkpoint(file(data)).config
    assert (config.vocab_size, config.bos_token_id, config.end_tokens) == (1, None, ())


# ---- writing

@pytest.mark.parametrize("is_tied", [True, False])
def test_what_is_saved_is_version_0_to_the_byte_but_for_the_tables(is_tied, version, file, rng, tmp_path):
    data, config, weights = contents(version, rng, is_tied=is_tied)
    expected = files.version_0(config, weights)
    tl.save(tl.load(file(data), "numpy"), tmp_path / "new" / "saved.bin")
    saved = (tmp_path / "new" / "saved.bin").read_bytes()
    tables = 11 * 3 * 4 * 2
    end = len(expected) - (0 if is_tied else config.vocab_size * config.hidden_size * 4)
    assert len(saved) == len(expected)
    assert saved[:end - tables] == expected[:end - tables]
    assert saved[end:] == expected[end:]
    cos, sin = np.frombuffer(saved[end - tables:end], "<f4").reshape(2, 11, 3)
    angles = np.outer(np.arange(11), 10000.0 ** (-np.arange(3) / 3))
    np.testing.assert_allclose(cos, np.cos(angles), rtol=0, atol=1e-6)
    np.testing.assert_allclose(sin, np.sin(angles), rtol=0, atol=1e-6)


def test_what_is_saved_is_loaded(tmp_path, backend):
    model = tl.Llama(tl.LlamaConfig(**files.TINY), backend)
    tl.save(model, tmp_path / "model.bin")
    loaded = tl.load(tmp_path / "model.bin", backend)
    np.testing.assert_array_equal(backend.to_numpy(loaded.logits(IDS)), backend.to_numpy(model.logits(IDS)))
    assert [path.name for path in tmp_path.iterdir()] == ["model.bin"]


def test_other_dtypes_become_float32(tmp_path, rng):
    model = tl.Llama(tl.LlamaConfig(**files.TINY), "numpy", "float64")
    tl.save(model, tmp_path / "model.bin")
    loaded = tl.load(tmp_path / "model.bin", "numpy")
    for name, array in model.parameters.items():
        np.testing.assert_array_equal(loaded.parameters[name], array.astype("f4"))
    model.parameters["model.norm.weight"][3] = 1e300
    with pytest.raises(ValueError, match=r"model.norm.weight: expected weights that float32 can hold, got a larger"):
        tl.save(model, tmp_path / "model.bin")
    np.testing.assert_array_equal(tl.load(tmp_path / "model.bin", "numpy").logits(IDS), loaded.logits(IDS))
    assert [path.name for path in tmp_path.iterdir()] == ["model.bin"]


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "model.bin"
    tl.save(tl.Llama(tl.LlamaConfig(**files.TINY), "numpy"), path)
    before = path.read_bytes()

    def fails(new, _):
        assert len(new.read_bytes()) == len(before)
        raise OSError("the disk is gone")

    monkeypatch.setattr(llama2c.os, "replace", fails)
    with pytest.raises(OSError, match="the disk is gone"):
        tl.save(tl.Llama(tl.LlamaConfig(**files.TINY), "numpy", seed=1), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("settings, message", [
    (dict(attention_bias=True), "attention_bias: expected False, got True"),
    (dict(mlp_bias=True), "mlp_bias: expected False, got True"),
    (dict(qk_norm=True), "qk_norm: expected False, got True"),
    (dict(head_dim=8), "head_dim: expected 6, got 8"),
    (dict(rope_theta=500000.0), "rope_theta: expected 10000.0, got 500000.0"),
    (dict(rope_scaling={"rope_type": "linear", "factor": 2.0}), "rope_scaling: expected None, got {"),
    (dict(rms_norm_eps=1e-6), "rms_norm_eps: expected 1e-05, got 1e-06"),
    (dict(norm="layernorm"), "norm: expected 'rmsnorm', got 'layernorm'"),
    (dict(mlp="gelu"), "mlp: expected 'swiglu', got 'gelu'"),
    (dict(positions="learned"), "positions: expected 'rope', got 'learned'"),
    (dict(sliding_window=4), "sliding_window: expected None, got 4"),
    (dict(num_unique_layers=2), "num_unique_layers: expected 3, got 2"),
    (dict(mlp="relu", positions="none"), "mlp: expected 'swiglu', got 'relu'; positions: expected 'rope', got 'none'"),
    (dict(max_position_embeddings=2**31), "max_position_embeddings: expected less than 2^31, got 2147483648"),
])
def test_what_the_format_cannot_hold_is_named(settings, message, tmp_path):
    model = tl.Llama(tl.LlamaConfig(**files.TINY), "numpy")
    model.config = tl.LlamaConfig(**files.TINY | settings)
    with pytest.raises(ValueError) as error:
        llama2c.save(model, tmp_path / "model.bin")
    assert "model.bin: the format of llama2.c cannot hold this model: " in str(error.value)
    assert message in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_change_the_numbers_is_no_reason_to_refuse(tmp_path):
    settings = dict(dropout=0.1, eos_token_id=7, initializer_range=0.5)
    tl.save(tl.Llama(tl.LlamaConfig(**files.TINY | settings), "numpy"), tmp_path / "model.bin")
    assert tl.load(tmp_path / "model.bin").config.end_tokens == (1, 2)


def test_a_directory_in_the_place_of_the_file(tmp_path):
    (tmp_path / "model.bin").mkdir()
    with pytest.raises(ValueError, match="expected a file to save the model in, got a directory"):
        llama2c.save(tl.Llama(tl.LlamaConfig(**files.TINY), "numpy"), tmp_path / "model.bin")
    with pytest.raises(ValueError, match=r"expected a file of llama2.c, got a directory"):
        read_checkpoint(tmp_path / "model.bin")


# ---- a real one

@pytest.fixture
def golden(shared_data):
    return json.loads((shared_data / "stories260K_golden.json").read_text(encoding="utf-8"))


def story(model, golden):
    return list(model.generate(golden["greedy_ids_200"][:1], max_new_tokens=200, temperature=0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_tells_its_story_token_for_token(shared_data, golden, backend, dtype):
    model = tl.load(shared_data / "stories260K.bin", backend, dtype)
    assert story(model, golden) == golden["greedy_ids_200"][1:]


def test_the_text_of_the_story(shared_data, golden, backend):
    tokenizer = tl.load_tokenizer(shared_data / "tok512.bin")
    model = tl.load(shared_data / "stories260K.bin", backend)
    assert tokenizer.decode(story(model, golden)) == golden["text_200"]


def test_to_hugging_face_and_back(shared_data, golden, tmp_path):
    original = shared_data / "stories260K.bin"
    tl.save(tl.load(original, "numpy"), tmp_path / "directory")
    converted = tl.load(tmp_path / "directory", "numpy")
    assert story(converted, golden) == golden["greedy_ids_200"][1:]
    tl.save(converted, tmp_path / "back.bin")
    expected, got = original.read_bytes(), (tmp_path / "back.bin").read_bytes()
    tables = 2 * 512 * 4 * 4        # cos and sin, which nobody reads: PyTorch's own are not always rounded properly
    assert len(got) == len(expected)
    assert got[:-tables] == expected[:-tables]
    ours, theirs = (np.frombuffer(data[-tables:], "<i4").astype(np.int64) for data in (got, expected))
    assert np.abs(ours - theirs).max() == 1                             # the last bit
    assert np.count_nonzero(ours != theirs) == 199                      # of 4,096 numbers


def test_transformers_tells_the_same_story(shared_data, golden, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed, so nobody else can tell the story.")
    transformers = pytest.importorskip("transformers", minversion="5.0",
                                       reason="transformers 5 is not installed, so nobody else can tell the story.")
    tl.save(tl.load(shared_data / "stories260K.bin", "numpy"), tmp_path)
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    start = torch.tensor([golden["greedy_ids_200"][:1]])
    ids = model.generate(start, attention_mask=torch.ones_like(start), max_new_tokens=200, do_sample=False,
                         pad_token_id=0)
    assert ids[0].tolist() == golden["greedy_ids_200"]


# ---- bad input

def test_a_file_that_was_cut_short_anywhere(version, file, rng):
    data, _, _ = contents(version, rng)
    for length in [*range(300), *range(300, len(data), 997), len(data) - 1]:
        with pytest.raises(ValueError, match=r"model.bin: expected a model of llama2.c, got a file that is none"):
            read_checkpoint(file(data[:length]))


def test_a_file_with_something_behind_its_end(version, file, rng):
    data, _, _ = contents(version, rng)
    with pytest.raises(ValueError, match=rf"length: expected {len(data)} bytes, .* got {len(data) + 1}"):
        read_checkpoint(file(data + b"\0"))


def with_field(data, offset, value, form="<i"):
    return data[:offset] + struct.pack(form, value) + data[offset + struct.calcsize(form):]


@pytest.mark.parametrize("offset, value, form, message", [
    (4, 3, "<i", "version: expected 1 or 2 after the magic number, got 3"),
    (4, -1, "<i", "version: expected 1 or 2 after the magic number, got -1"),
    (8, 0, "<i", "hidden_size: expected a whole number of at least 1, got 0"),
    (12, -20, "<i", "intermediate_size: expected a whole number of at least 1, got -20"),
    (16, 2**31 - 1, "<i", "length: expected"),
    (20, 5, "<i", "num_attention_heads: expected a divisor of hidden_size=24, or a head_dim, got 5"),
    (20, 8, "<i", "head_dim: expected an even number for rotary positions, got 3"),
    (24, 3, "<i", "num_key_value_heads: expected a divisor of num_attention_heads=4, got 3"),
    (28, -13, "<i", "vocab_size: expected a whole number of at least 1, got -13"),
    (28, 2**31 - 1, "<i", "length: expected"),
    (32, 0, "<i", "max_position_embeddings: expected a whole number of at least 1, got 0"),
    (36, 2, "<B", "shared classifier: expected 0 or 1, got 2"),
    (37, 0, "<i", "group size: expected at least 1, got 0"),
    (37, -8, "<i", "group size: expected at least 1, got -8"),
    (37, 7, "<i", "group size: expected a divisor of the 312 numbers of a tensor, got 7"),
    (37, 4, "<i", "length: expected"),
])
def test_a_field_of_the_header_that_cannot_be(offset, value, form, message, file, rng):
    data, _, _ = contents("2", rng)
    with pytest.raises(ValueError) as error:
        read_checkpoint(file(with_field(data, offset, value, form)))
    assert message in str(error.value)


def test_absurd_sizes_are_refused_before_anything_is_allocated(version, file, rng):
    data, _, _ = contents(version, rng)
    start = 0 if version == "0" else 8
    huge = struct.pack("<7i", 2**31 - 8, 2**31 - 1, 2**31 - 1, 2**30 - 4, 1, 2**31 - 1, 2**31 - 1)
    path = file(data[:start] + huge + data[start + 28:])
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"length: expected [0-9]{20,} bytes"):
        read_checkpoint(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_other_files(file, tmp_path):
    for data in (b"", b"{}", b"once upon a time there was a file of text" * 10, bytes(1000), b"\xff" * 1000):
        with pytest.raises(ValueError, match=r"model.bin: expected a model of llama2.c, got a file that is none"):
            read_checkpoint(file(data))
    with pytest.raises(FileNotFoundError, match=r"nowhere.bin"):
        read_checkpoint(tmp_path / "nowhere.bin")


def test_damaged_files_are_read_or_refused(version, file, rng):
    """Bytes are changed, removed and added, most of them in the header. Nothing but ValueError comes of it."""
    whole, _, _ = contents(version, rng)
    draw, refused = random.Random(0), 0
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            place = draw.randrange(64) if draw.random() < 0.8 else draw.randrange(len(data))
            change = draw.randrange(4)
            if change == 0:
                data[place] = draw.randrange(256)
            elif change == 1:
                data[place:place + 4] = struct.pack("<i", draw.choice([-1, 0, 1, 2, 2**31 - 1, -2**31, 256, 65536]))
            elif change == 2:
                del data[place:place + draw.randint(1, 9)]
            else:
                data[place:place] = bytes(draw.randint(1, 9))
        try:
            checkpoint = read_checkpoint(file(bytes(data)))
        except ValueError:
            refused += 1
            continue
        for tensor in checkpoint.tensors.values():
            assert tensor.read(slice(0, 2)).dtype == np.float32
            tensor.quantized()
    assert 500 < refused < 1500
