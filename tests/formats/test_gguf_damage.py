"""GGUF files that are damaged, hostile, or of models that are not supported: one error that says so."""

import struct
import tracemalloc

import numpy as np
import pytest

import tinyllama as tl
from tinyllama.formats.checkpoint import check_tensors
from tinyllama.formats.gguf import read_checkpoint
from tinyllama.gguf_header import read_header

pytest.importorskip("gguf", reason="gguf is not installed, so nothing can write the files to be damaged.")

import gguf_files as files

CONFIG = tl.LlamaConfig(vocab_size=37, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                        num_key_value_heads=2, max_position_embeddings=40, eos_token_id=2)
MODEL = tl.Llama(CONFIG, backend="numpy")
BEYOND = 2**63


def ones(*shape):
    return np.ones(shape, dtype=np.float32)


@pytest.fixture
def write(tmp_path):
    """Write the file of MODEL with other metadata (None: without that key) and other tensors."""
    def write(metadata=(), tensors=(), *, architecture="llama", **settings):
        found = []
        for contents, changes in ((files.metadata_of(CONFIG, architecture), metadata),
                                  (files.tensors_of(MODEL, architecture), tensors)):
            contents |= dict(changes)
            found.append({name: value for name, value in contents.items() if value is not None})
        return files.write(tmp_path / "model.gguf", *found, architecture=architecture, **settings)
    return write


def refused(path, message):
    """The error is a ValueError that begins with the file, from `load` as from the reader."""
    for read in (lambda path: check_tensors(read_checkpoint(path)), tl.load):
        with pytest.raises(ValueError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(str(path))
        assert len(str(caught.value)) < 1000


def replace_entry(path, name, *, dimensions=None, kind=None, offset=None):
    """Change what the list of tensors says of a matrix: its dimensions (the fastest first), kind or offset."""
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<Q", len(name)) + name.encode()) + 8 + len(name)
    for place, format, value in ((at + 4, "<2Q", dimensions), (at + 20, "<I", kind), (at + 24, "<Q", offset)):
        if value is not None:
            struct.pack_into(format, data, place, *(value if isinstance(value, tuple) else (value,)))
    path.write_bytes(data)
    return path


# ---- what is not supported

def test_the_file_that_is_changed_below_is_sound(write):
    check_tensors(read_checkpoint(write()))


@pytest.mark.parametrize("architecture", ["gemma2", "mamba", "x" * 3000])
def test_another_architecture_is_refused(write, architecture):
    refused(write(architecture=architecture), f"general.architecture: expected one of llama, qwen2, qwen3, phi3, "
                                              f"got '{architecture[:60]}'")


def test_a_kind_that_is_not_supported_is_refused(write):
    name = "blk.0.ffn_up.weight"
    message = "blk.0.ffn_up.weight: expected a tensor of the kind F32, F16, BF16, Q4_0, .* Q6_K, got "
    refused(replace_entry(write(), name, kind=20), f"{message}IQ4_NL")
    refused(replace_entry(write(), name, kind=4), f"{message}4")


@pytest.mark.parametrize(("key", "value", "got"), [
    ("expert_count", 8, "8"), ("logit_scale", 0.0625, "0.0625"), ("attention.clamp_kqv", 8.0, "8.0"),
    ("attention.causal", False, "False"), ("attention.sliding_window_pattern", [True, False], "an array of 2"),
    ("final_logit_softcapping", 30.0, "30.0"), ("embedding_scale", "much", "'much'")])
def test_a_setting_that_would_change_the_numbers_is_refused(write, key, value, got):
    refused(write({f"llama.{key}": value}), f"llama.{key}: expected no such setting, .* got {got}")


def test_settings_that_change_nothing_are_read_over(write):
    harmless = {"llama.expert_count": 0, "llama.attention.causal": True, "llama.logit_scale": 1.0, "llama.new": "key",
                "general.languages": ["en"], "llama.rope.scaling.type": "none"}
    assert read_checkpoint(write(harmless)).config == CONFIG


@pytest.mark.parametrize(("metadata", "message"), [
    ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0},
     "llama.rope.scaling.type: expected 'none' or 'linear', got 'yarn'"),
    ({"llama.rope.scaling.factor": -2.0}, "expected a number above 0 for 'factor', got -2.0"),
    ({"llama.rope.dimension_count": 8}, "llama.rope.dimension_count: expected 16, the size of a head, got 8"),
    ({"llama.attention.value_length": 32}, "llama.attention.value_length: expected 16, the size of a head, got 32"),
    ({"split.count": 3}, "split.count: expected the whole model in one file, .* got 3"),
])
def test_other_variants_are_refused(write, metadata, message):
    refused(write(metadata), message)


def test_other_factors_of_the_rotation_are_refused(write):
    for factors in (np.linspace(1, 3, 8), np.full(8, np.nan), np.zeros(8), -np.ones(8)):
        refused(write(tensors={"rope_freqs.weight": factors.astype(np.float32)}), "rope_freqs.weight: expected")
    refused(write(tensors={"rope_freqs.weight": ones(7)}), r"expected the shape \(8,\), got \(7,\)")
    refused(write({"llama.rope.scaling.factor": 4.0}, {"rope_freqs.weight": ones(8)}),
            "rope_freqs.weight: expected no other scaling of the rotation beside it, got linear by 4.0")
    refused(write(tensors={"rope_factors_long.weight": ones(8)}), "of the kind longrope")


# ---- metadata that are missing or wrong

REQUIRED = ("context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count",
            "attention.layer_norm_rms_epsilon")


@pytest.mark.parametrize("key", REQUIRED)
def test_a_setting_that_is_missing_is_named(write, key):
    refused(write({f"llama.{key}": None}), f"llama.{key}: expected this setting, got metadata without it")


@pytest.mark.parametrize("key", [*REQUIRED, "attention.head_count_kv", "attention.key_length", "rope.freq_base"])
@pytest.mark.parametrize("value", ["4", True, [4, 4]])
def test_a_setting_of_another_type_is_named(write, key, value):
    got = "an array of 2" if isinstance(value, list) else repr(value)
    refused(write({f"llama.{key}": value}), f"llama.{key}: expected a (whole )?number, got {got}")


def test_a_size_that_is_not_a_whole_number_is_named(write):
    refused(write({"llama.block_count": 2.0}), "llama.block_count: expected a whole number, got 2.0")


def test_numbers_out_of_range_are_refused(write):
    for key, value in {"attention.head_count": 0, "attention.head_count_kv": 3, "context_length": 0,
                       "attention.layer_norm_rms_epsilon": float("nan"), "rope.freq_base": -1.0}.items():
        refused(write({f"llama.{key}": value}), "expected")
    refused(write({"tokenizer.ggml.eos_token_id": 37}), "expected a token from 0 to 36, got 37")


@pytest.mark.parametrize("key", ["block_count", "embedding_length", "feed_forward_length", "attention.head_count",
                                 "attention.key_length", "attention.head_count_kv"])
def test_an_absurd_size_costs_no_memory(write, key):
    path = write({f"llama.{key}": 2**31})
    tracemalloc.start()
    refused(path, "expected")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


# ---- tensors that are missing or wrong

def test_tensors_that_do_not_belong_together_are_named(write):
    refused(write(tensors={"blk.1.ffn_up.weight": None}), "layers.1.mlp.up_proj.weight: .* got no such tensor")
    refused(write(tensors={"token_embd.weight": None}), "token_embd.weight: expected a matrix, got no such tensor")
    refused(write(tensors={"blk.0.attn_q.weight": None}), r"q_proj.weight: expected the shape \(64, 64\), got no")
    refused(write(tensors={"blk.2.ffn_up.weight": ones(96, 64)}), "layers.2.* no such tensor")
    refused(write(tensors={"v.head.weight": ones(6, 4)}), "v.head.weight: expected no such tensor")
    refused(write(tensors={"blk.1.attn_k.weight": ones(33, 64)}), "whole heads of 16 rows, got 33")
    refused(write(tensors={"blk.1.attn_v.weight": ones(16, 64)}), r"\(32, 64\), got \(16, 64\)")
    refused(write(tensors={"blk.0.attn_q.bias": ones(64)}), "k_proj.bias: .* got no such tensor")
    refused(write(tensors={"blk.0.ffn_up.weight": ones(3, 4, 5)}), "one or two dimensions")


def test_fused_tensors_of_another_height_are_named(write):
    refused(write(architecture="phi3", tensors={"blk.1.attn_qkv.weight": ones(120, 64)}),
            "blk.1.attn_qkv.weight: expected 128 rows, got 120")
    refused(write(architecture="phi3", tensors={"blk.0.ffn_up.weight": ones(96, 64)}),
            "blk.0.ffn_up.weight: expected 192 rows, got 96")


def test_data_that_are_not_where_they_should_be(write):
    name = "blk.0.ffn_up.weight"
    for beyond in ({"offset": BEYOND}, {"dimensions": (64, BEYOND)}, {"dimensions": (BEYOND, BEYOND)}):
        refused(replace_entry(write(), name, **beyond), f"{name}: expected its data at the bytes .* a file of")
    refused(replace_entry(write(), name, offset=33), f"{name}: expected an offset that is a multiple of 32, got 33")
    refused(replace_entry(write(), name, offset=32), "expected its data to begin after those of")
    refused(replace_entry(write(kind="Q8_0"), name, dimensions=(48, 128)), "a multiple of 32 columns, for Q8_0, got 48")


def test_another_alignment(write):
    assert read_checkpoint(write(alignment=128)).config == CONFIG


def test_a_file_cut_short_in_its_data_is_refused(write):
    path = write()
    data = path.read_bytes()
    for cut in (1, 100, len(data) // 2):
        path.write_bytes(data[:-cut])
        refused(path, "cut short or damaged")
    path.write_bytes(data + bytes(100))         # more is no harm: some writers pad
    assert read_checkpoint(path).config == CONFIG


def test_a_missing_file_and_a_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_checkpoint(tmp_path / "nowhere.gguf")
    with pytest.raises(ValueError, match="expected a GGUF file, got a directory"):
        read_checkpoint(tmp_path)


# ---- thousands of damaged files

EXTREMES = [0, 1, 2, 2**7, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1]


def mutated(data, end, rng):
    """`data` with one to three wounds before `end`: wrong bytes, wrong numbers, bytes that are missing or too many."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(4, end))
        match rng.integers(5):
            case 0:
                data[at] = rng.integers(256)
            case 1:
                data[at] ^= 1 << rng.integers(8)
            case 2:
                size, format = ((4, "<I"), (8, "<Q"))[rng.integers(2)]
                struct.pack_into(format, data, at, EXTREMES[rng.integers(len(EXTREMES))] % 2**(8 * size))
            case 3:
                del data[at:at + int(rng.integers(1, 9))]
            case 4:
                data[at:at] = rng.bytes(rng.integers(1, 9))
    return bytes(data[:rng.integers(len(data))]) if rng.integers(10) == 0 else bytes(data)


@pytest.mark.parametrize("architecture", ["llama", "phi3"])
def test_a_damaged_file_is_read_or_refused(write, rng, architecture):
    tokens = {"tokenizer.ggml.tokens": [f"token {number}" for number in range(37)],
              "tokenizer.ggml.scores": [0.5] * 37}
    path = write(tokens, architecture=architecture, kind="Q4_1")
    data, end = path.read_bytes(), read_header(path).data_start
    outcomes = {"read": 0, "refused": 0}
    tracemalloc.start()
    for _ in range(1500):
        path.write_bytes(mutated(data, end, rng))
        try:
            checkpoint = read_checkpoint(path)
            check_tensors(checkpoint)
            for tensor in checkpoint.tensors.values():
                tensor.read(slice(0, 2))
            outcomes["read"] += 1
        except ValueError as error:
            assert str(error).startswith(str(path))
            outcomes["refused"] += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23
    assert min(outcomes.values()) > 50
