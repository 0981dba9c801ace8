"""How the tensors of a GGUF file are held: as floating point, or as blocks of small whole numbers with scales.

A row of a quantised tensor is cut into blocks of 32 or 256 columns. A block is cut into groups of 16, 32 or more
columns, and a group shares a scale and perhaps an offset:

    weight = number · scale + offset

The functions below take blocks apart, each with a picture of its bytes. `d` and `m` are float16; `numbers` stands for
whole numbers of fewer than eight bits, as `_bit_fields` reads them. The layouts are those of ggml (the structs of
ggml-common.h, the functions dequantize_row_* of ggml-quants.c).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tinyllama.ops.quantized_linear import QuantizedWeight

PIECE_BYTES = 2**22     # of blocks: so much is taken apart at a time


class Groups(NamedTuple):
    """N blocks, taken apart into G groups of S columns each."""

    numbers: Any            # (N, G, S) int8 or uint8
    scales: Any             # (N, G) float32
    offsets: Any = None     # (N, G) float32, or None for zeros


class Kind(NamedTuple):
    """A way to hold a tensor.

    block: the columns of a block; size: its bytes. unpack: for numbers, a function (N, size) uint8 -> `Groups`.
    bits: of a number of the `QuantizedWeight` that holds the same; 0 for floating point. least: the smallest number
    of four bits that are signed; 0 else.
    """

    name: str
    block: int
    size: int
    unpack: Callable | None = None
    bits: int = 0
    least: int = 0


def to_floats(kind, rows):
    """The floats of some rows.   rows: (R, bytes of a row) uint8  ->  (R, columns) float32.

    Raises nothing: a damaged scale gives infinities and NaN, which stay visible.
    """
    if kind.name == "F32":
        return rows.view("<f4")
    if kind.name == "BF16":         # the upper half of a float32
        return (rows.view("<u2").astype(np.uint32) << 16).view(np.float32)
    with np.errstate(invalid="ignore"):
        if kind.name == "F16":
            return rows.view("<f2").astype(np.float32)
        numbers, scales, offsets = kind.unpack(rows.reshape(-1, kind.size))             # (N, G, S), (N, G), (N, G)
        floats = numbers.astype(np.float32)
        floats *= scales[..., None]
        if offsets is not None:
            floats += offsets[..., None]
    return floats.reshape(len(rows), -1)                                                # (N, G, S) -> (R, columns)


def to_quantized_weight(kind, rows):
    """The numbers of a matrix as a `QuantizedWeight` with the groups of its kind; None where it is of floating point.

    rows: (O, bytes of a row) uint8. What it stands for equals `to_floats`, but for the sign of a zero: four bits hold
    numbers from 0 on, and where the kind has negative ones, the smallest becomes an offset, which is exact in float32.
    """
    if not kind.bits:
        return None
    weight, height = None, max(1, PIECE_BYTES // rows.shape[1])
    for start in range(0, len(rows), height):
        piece = _piece_of_weight(kind, rows[start:start + height])
        if weight is None:
            weight = QuantizedWeight(*(array if array is None else np.empty((len(rows), array.shape[1]), array.dtype)
                                       for array in piece))
        for whole, part in zip(weight, piece, strict=True):
            if whole is not None:
                whole[start:start + height] = part
    return weight


def _piece_of_weight(kind, rows):
    """values: (R, I) int8 or (R, I/2) uint8, scales: (R, G), offsets: (R, G) or None."""
    with np.errstate(invalid="ignore"):
        numbers, scales, offsets = kind.unpack(rows.reshape(-1, kind.size))             # (N, G, S), (N, G), (N, G)
        if kind.least:
            numbers, offsets = numbers - np.int8(kind.least), scales * np.float32(kind.least)
    numbers = numbers.reshape(len(rows), -1)                                            # (N, G, S) -> (R, I)
    if kind.bits == 4:
        numbers = numbers.astype(np.uint8, copy=False)
        numbers = numbers[:, ::2] | numbers[:, 1::2] << 4                               # (R, I) -> (R, I/2)
    else:
        numbers = numbers.astype(np.int8, copy=False)
    return numbers, scales.reshape(len(rows), -1), None if offsets is None else offsets.reshape(len(rows), -1)


# ---- what the blocks have in common

def _bit_fields(packed, bits):
    """Numbers of 1, 2 or 4 bits: the lowest bits of all bytes come first, then the next of all bytes, and so on.

        packed:  the bytes      BA  DC  FE          with 4 bits each  ->  A C E B D F

    packed: (..., B) uint8  ->  (..., 8/bits · B) uint8.
    """
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]                             # (8/bits, 1)
    fields = packed[..., None, :] >> shifts & np.uint8(2**bits - 1)                     # (..., B) -> (..., 8/bits, B)
    return fields.reshape(*packed.shape[:-1], -1)                                       # (..., 8/bits · B)


def _half(blocks, start):
    """The float16 of each block that begins at a byte: (N, size) -> (N, 1) float32."""
    return np.ascontiguousarray(blocks[:, start:start + 2]).view("<f2").astype(np.float32)


def _numbers_of_five_bits(low, high):
    """low: (N, 16), the lower four bits; high: (N, 4), the fifth, in the order of the columns  ->  (N, 32) uint8."""
    return _bit_fields(low, 4) | np.unpackbits(high, axis=1, bitorder="little") << 4


def _scales_and_minima(d, m, packed):
    """Eight scales and eight minima of six bits each, in 12 bytes. The capital letters are those of the groups 4 to 7.

        byte    0..3    DDdddddd        their lower six bits: the scales of groups 0 to 3
                4..7    MMmmmmmm                              the minima of groups 0 to 3
                8..11   MMMMDDDD        the lower four bits of groups 4 to 7; the upper two stand above

    d, m: (N, 1), packed: (N, 12)  ->  scales d · (N, 8), offsets -m · (N, 8).
    """
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]                 # (N, 4) each
    scales = np.concatenate([first & 63, third & 15 | first >> 6 << 4], axis=1)         # (N, 8)
    minima = np.concatenate([second & 63, third >> 4 | second >> 6 << 4], axis=1)       # (N, 8)
    return d * scales.astype(np.float32), -(m * minima.astype(np.float32))


# ---- blocks of 32

def _unpack_q4_0(blocks):
    """byte  0 1 | 2 .. 17            weight = d · (number - 8)
              d    32 numbers of 4 bits
    """
    numbers = _bit_fields(blocks[:, 2:], 4).astype(np.int8) - np.int8(8)                # (N, 32)
    return Groups(numbers[:, None], _half(blocks, 0))


def _unpack_q4_1(blocks):
    """byte  0 1 | 2 3 | 4 .. 19      weight = d · number + m
              d     m    32 numbers of 4 bits
    """
    return Groups(_bit_fields(blocks[:, 4:], 4)[:, None], _half(blocks, 0), _half(blocks, 2))


def _unpack_q5_0(blocks):
    """byte  0 1 | 2 .. 5    | 6 .. 21                        weight = d · (number - 16)
              d    32 highest  the lower 4 of 5 bits
    """
    numbers = _numbers_of_five_bits(blocks[:, 6:], blocks[:, 2:6]).astype(np.int8) - np.int8(16)    # (N, 32)
    return Groups(numbers[:, None], _half(blocks, 0))


def _unpack_q5_1(blocks):
    """byte  0 1 | 2 3 | 4 .. 7    | 8 .. 23                  weight = d · number + m
              d     m    32 highest  the lower 4 of 5 bits
    """
    numbers = _numbers_of_five_bits(blocks[:, 8:], blocks[:, 4:8])                      # (N, 32)
    return Groups(numbers[:, None], _half(blocks, 0), _half(blocks, 2))


def _unpack_q8_0(blocks):
    """byte  0 1 | 2 .. 33            weight = d · number
              d    32 numbers of int8
    """
    return Groups(blocks[:, None, 2:].view(np.int8), _half(blocks, 0))


# ---- blocks of 256: the scales of the groups are whole numbers too, with a scale of their own

def _unpack_q2_k(blocks):
    """byte  0 .. 15      | 16 .. 79     | 80 81 | 82 83      weight = d · scale · number - m · minimum
             16 groups:     2 halves, each    d       m       scale: the lower 4 bits of a group's byte,
             scale, minimum 128 of 2 bits                     minimum: the upper
    """
    numbers = _bit_fields(blocks[:, 16:80].reshape(-1, 2, 32), 2)                       # (N, 2, 128)
    scales, minima = blocks[:, :16] & 15, blocks[:, :16] >> 4                           # (N, 16) each
    return Groups(numbers.reshape(-1, 16, 16), _half(blocks, 80) * scales.astype(np.float32),
                  -(_half(blocks, 82) * minima.astype(np.float32)))


def _unpack_q3_k(blocks):
    """byte  0 .. 31       | 32 .. 95      | 96 .. 103     | 104 .. 107    | 108 109
             256 highest     2 halves, each  the lower 4 of  the upper 2 of      d
             of 3 bits       128 of 2 bits   16 scales       16 scales

    weight = d · (scale - 32) · (number - 4), 16 groups.
    """
    low = _bit_fields(blocks[:, 32:96].reshape(-1, 2, 32), 2).reshape(-1, 256)          # (N, 2, 128) -> (N, 256)
    numbers = (low | _bit_fields(blocks[:, :32], 1) << 2).astype(np.int8) - np.int8(4)  # (N, 256)
    scales = _bit_fields(blocks[:, 96:104], 4) | _bit_fields(blocks[:, 104:108], 2) << 4            # (N, 16)
    scales = scales.astype(np.float32) - np.float32(32)
    return Groups(numbers.reshape(-1, 16, 16), _half(blocks, 108) * scales)


def _unpack_q4_k(blocks):
    """byte  0 1 | 2 3 | 4 .. 15        | 16 .. 143           weight = d · scale · number - m · minimum
              d     m    8 groups:        4 quarters, each    see `_scales_and_minima`
                         scale, minimum   64 of 4 bits
    """
    numbers = _bit_fields(blocks[:, 16:].reshape(-1, 4, 32), 4)                         # (N, 4, 64)
    return Groups(numbers.reshape(-1, 8, 32), *_scales_and_minima(_half(blocks, 0), _half(blocks, 2), blocks[:, 4:16]))


def _unpack_q5_k(blocks):
    """byte  0 1 | 2 3 | 4 .. 15        | 16 .. 47     | 48 .. 175        weight as in Q4_K
              d     m    8 groups:        256 highest    4 quarters, each
                         scale, minimum   of 5 bits      64 of 4 bits
    """
    low = _bit_fields(blocks[:, 48:].reshape(-1, 4, 32), 4).reshape(-1, 256)            # (N, 4, 64) -> (N, 256)
    numbers = low | _bit_fields(blocks[:, 16:48], 1) << 4                               # (N, 256)
    return Groups(numbers.reshape(-1, 8, 32), *_scales_and_minima(_half(blocks, 0), _half(blocks, 2), blocks[:, 4:16]))


def _unpack_q6_k(blocks):
    """byte  0 .. 127        | 128 .. 191       | 192 .. 207 | 208 209    weight = d · scale · (number - 32)
             2 halves, each    2 halves, each     16 scales      d
             128 of the lower  128 of the upper   of int8
             4 of 6 bits       2 of 6 bits
    """
    low = _bit_fields(blocks[:, :128].reshape(-1, 2, 64), 4)                            # (N, 2, 128)
    high = _bit_fields(blocks[:, 128:192].reshape(-1, 2, 32), 2)                        # (N, 2, 128)
    numbers = (low | high << 4).astype(np.int8) - np.int8(32)                           # (N, 2, 128)
    scales = _half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)   # (N, 16)
    return Groups(numbers.reshape(-1, 16, 16), scales)


KINDS = {               # ggml's number -> how it is held
    0: Kind("F32", 1, 4),
    1: Kind("F16", 1, 2),
    30: Kind("BF16", 1, 2),
    2: Kind("Q4_0", 32, 18, _unpack_q4_0, bits=4, least=-8),
    3: Kind("Q4_1", 32, 20, _unpack_q4_1, bits=4),
    6: Kind("Q5_0", 32, 22, _unpack_q5_0, bits=8),
    7: Kind("Q5_1", 32, 24, _unpack_q5_1, bits=8),
    8: Kind("Q8_0", 32, 34, _unpack_q8_0, bits=8),
    10: Kind("Q2_K", 256, 84, _unpack_q2_k, bits=4),
    11: Kind("Q3_K", 256, 110, _unpack_q3_k, bits=4, least=-4),
    12: Kind("Q4_K", 256, 144, _unpack_q4_k, bits=4),
    13: Kind("Q5_K", 256, 176, _unpack_q5_k, bits=8),
    14: Kind("Q6_K", 256, 210, _unpack_q6_k, bits=8),
}

# The names of the others, for a message.
OTHER_KINDS = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
    22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0",
    35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}
