"""Blocks of GGUF taken apart: the numbers of ggml's own library to the bit, as floats and as quantised weights."""

import numpy as np
import pytest

from tinyllama.formats import gguf_blocks
from tinyllama.formats.gguf_blocks import KINDS, OTHER_KINDS, to_floats, to_quantized_weight
from tinyllama.ops.quantized_linear import dequantize

BY_NAME = {kind.name: kind for kind in KINDS.values()}
QUANTIZED = [name for name, kind in BY_NAME.items() if kind.bits]
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}      # the bytes of a block where a float16 begins
GROUPS = {"Q4_0": (4, 32), "Q4_1": (4, 32), "Q5_0": (8, 32), "Q5_1": (8, 32), "Q8_0": (8, 32), "Q2_K": (4, 16),
          "Q3_K": (4, 16), "Q4_K": (4, 32), "Q5_K": (8, 32), "Q6_K": (8, 16)}      # bits, columns of a group


def random_rows(name, rng, rows=5, blocks=3):
    """Rows of random bytes whose scales are finite: (rows, bytes of a row) uint8."""
    kind = BY_NAME[name]
    data = rng.integers(0, 256, size=(rows, blocks, kind.size), dtype=np.uint8)
    for start in HALVES.get(name, []):
        scales = rng.normal(size=(rows, blocks, 1)).astype(np.float16)
        data[..., start:start + 2] = scales.view(np.uint8)
    return data.reshape(rows, -1)


def library(name, rows):
    """The floats that the library `gguf` makes of the same bytes."""
    gguf = pytest.importorskip("gguf", reason="gguf is not installed, so nothing else can dequantise blocks.")
    return gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[name])


@pytest.mark.parametrize("name", BY_NAME)
def test_floats_are_those_of_the_library_to_the_bit(rng, name):
    rows = random_rows(name, rng)
    if name == "BF16":
        rows[:, 1::2] &= 0x3F           # no infinity, no NaN
    elif name in ("F32", "F16"):
        rows = rng.normal(size=(5, 12)).astype(name.replace("F", "float")).view(np.uint8)
    ours, theirs = to_floats(BY_NAME[name], rows).astype(np.float32), library(name, rows)
    np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_quantised_weight_holds_the_same_numbers(rng, monkeypatch, name):
    rows, kind = random_rows(name, rng), BY_NAME[name]
    monkeypatch.setattr(gguf_blocks, "PIECE_BYTES", 2 * rows.shape[1])          # pieces of two rows, the last of one
    weight = to_quantized_weight(kind, rows)
    weight.check()
    assert (weight.bits, weight.shape[1] // weight.scales.shape[1]) == GROUPS[name]
    assert weight.shape == (5, 3 * kind.block)
    assert weight.scales.dtype == np.float32
    floats = to_floats(kind, rows)
    np.testing.assert_array_equal(dequantize(weight, slice(None)), floats)      # which does not tell 0 from -0
    np.testing.assert_array_equal(dequantize(weight, np.array([4, 0])), floats[[4, 0]])


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_floating_point_has_no_quantised_weight(rng, name):
    assert to_quantized_weight(BY_NAME[name], random_rows(name, rng)) is None


def test_a_block_by_hand():
    # d = 0.5; byte j holds j in its low half, column j, and 15 - j in its high half, column j + 16.
    numbers = np.arange(16, dtype=np.uint8)
    row = np.concatenate([np.array([0.5], dtype=np.float16).view(np.uint8), numbers | (15 - numbers) << 4])[None]
    expected = np.concatenate([0.5 * (np.arange(16) - 8), 0.5 * (7 - np.arange(16))])
    np.testing.assert_array_equal(to_floats(BY_NAME["Q4_0"], row)[0], expected)
    weight = to_quantized_weight(BY_NAME["Q4_0"], row)
    assert weight.values[0, :2].tolist() == [0x10, 0x32]        # neighbouring columns share a byte here
    assert (weight.scales.item(), weight.offsets.item()) == (0.5, -4.0)


def test_six_bits_by_hand():
    # Column 0: low bits 5, high bits 2; column 127 of the second half: low bits 9, high bits 1. The scales differ.
    block = np.zeros(210, dtype=np.uint8)
    block[0], block[64 + 63] = 0x05, 0x90
    block[128], block[160 + 31] = 0b10, 0b01 << 6
    block[192], block[207] = 3, 256 - 2
    block[208:] = np.array([0.25], dtype=np.float16).view(np.uint8)
    floats = to_floats(BY_NAME["Q6_K"], block[None])[0]
    assert floats[0] == 0.25 * 3 * (5 + 32 - 32)
    assert floats[255] == 0.25 * -2 * (9 + 16 - 32)
    assert floats[1] == 0.25 * 3 * -32


def neighbouring_nibbles(packed, bits):
    """The wrong order: the numbers of a byte beside each other."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return (packed[..., None] >> shifts & np.uint8(2**bits - 1)).reshape(*packed.shape[:-1], -1)


def shifted_high_bits(packed, bits):
    """The wrong place: what belongs to one quarter goes to the next."""
    fields = right_bit_fields(packed, bits)
    return np.roll(fields, packed.shape[-1], axis=-1) if bits == 2 else fields


right_bit_fields = gguf_blocks._bit_fields


@pytest.mark.parametrize(("wrong", "names"), [
    (neighbouring_nibbles, [name for name in QUANTIZED if name != "Q8_0"]),
    (shifted_high_bits, ["Q6_K", "Q2_K", "Q3_K"])])
def test_wrong_layouts_are_noticed(rng, monkeypatch, wrong, names):
    for name in names:
        rows = random_rows(name, rng)
        monkeypatch.setattr(gguf_blocks, "_bit_fields", wrong)
        assert not np.allclose(to_floats(BY_NAME[name], rows), library(name, rows), rtol=0.1)


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_damaged_scale_stays_visible(rng, name):
    rows = random_rows(name, rng, rows=2, blocks=1)
    for start in HALVES[name]:
        rows[1, start:start + 2] = np.array([np.inf], dtype=np.float16).view(np.uint8)
    floats = to_floats(BY_NAME[name], rows)
    assert np.all(np.isfinite(floats[0]))
    assert not np.any(np.isfinite(floats[1]))
    assert not np.any(np.isfinite(to_quantized_weight(BY_NAME[name], rows).scales[1]))


def test_names_and_sizes_are_those_of_ggml():
    gguf = pytest.importorskip("gguf", reason="gguf is not installed, so nothing else knows the kinds.")
    names = {kind.value: kind.name for kind in gguf.GGMLQuantizationType}
    assert {number: kind.name for number, kind in KINDS.items()}.items() <= names.items()
    assert OTHER_KINDS.items() <= names.items()
    for number, kind in KINDS.items():
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(number)] == (kind.block, kind.size)
