"""Matrices of whole numbers of eight or four bits: less memory, and less time to read it."""

import math
from typing import Any, NamedTuple

from tinyllama.ops.array import array_namespace, as_rows

LARGEST = 127       # of int8, on both sides of zero; -128 stays unused
MOST = 15           # of four bits
BLOCK = 1024        # rows of the weight that become floats at a time


class Quantized:
    """A matrix (O, I) held as whole numbers, in whatever order. It has a shape and a size, but is no array."""

    __slots__ = ()
    shape: tuple

    @property
    def size(self):
        """How many weights it has."""
        return math.prod(self.shape)

    def __array__(self, dtype=None, copy=None):
        raise TypeError("a quantised weight: expected `dequantize` to be called, got a call for one array; a quantised "
                        "model can be neither saved nor trained")


class _Arrays(NamedTuple):
    values: Any             # (O, I) int8, or (O, I/2) uint8
    scales: Any             # (O, G)
    offsets: Any = None     # (O, G), or None for zeros


class QuantizedWeight(_Arrays, Quantized):
    """A matrix (O, I) as whole numbers, with scales and perhaps offsets for groups of the columns of each row.

        weight[o, i] = number[o, i] · scales[o, g] + offsets[o, g],   g = i // (I / G)

    Eight bits: the numbers are `values`, of int8. Four bits: a byte of `values` holds two, the one of column 2j in its
    low half and the one of column 2j + 1 in its high half, each from 0 to 15.
    """

    __slots__ = ()

    @property
    def bits(self):
        """8 or 4: of each number."""
        return 4 if self.values.dtype.name == "uint8" else 8

    @property
    def shape(self):
        """(O, I), as the weight that it stands for."""
        rows, width = self.values.shape
        return rows, width * 8 // self.bits

    @property
    def nbytes(self):
        """The memory of its arrays."""
        return sum(array.nbytes for array in self if array is not None)

    def map(self, function):
        """The weight with function(array) in the place of each of its arrays."""
        return QuantizedWeight(*(None if array is None else function(array) for array in self))

    def unpack(self):
        """The same weight as a `QuantizedWeight`: itself."""
        return self

    def check(self):
        """Raise TypeError or ValueError, naming the array, unless its arrays fit together."""
        values, scales, offsets = self
        if values.dtype.name not in ("int8", "uint8"):
            raise TypeError(f"values: expected an array of int8, or uint8 for two numbers a byte, got {values.dtype}")
        if values.ndim != 2:
            raise ValueError(f"values: expected two dimensions, got the shape {values.shape}")
        rows, bytes_of_a_row = values.shape
        if scales.ndim != 2 or len(scales) != rows or not scales.shape[1] or bytes_of_a_row % scales.shape[1]:
            raise ValueError(f"scales: expected the shape ({rows}, G), with G groups of whole bytes in the "
                             f"{bytes_of_a_row} of a row, got {scales.shape}")
        if offsets is not None and offsets.shape != scales.shape:
            raise ValueError(f"offsets: expected the shape of scales, {scales.shape}, or None, got {offsets.shape}")


class StackedWeight(Quantized):
    """Matrices with the same number of columns, one below the other, each quantised in its own way or not at all.

    parts: `QuantizedWeight` or whatever a backend made of one, or floating-point arrays, (O₁, I), (O₂, I), ...
    """

    __slots__ = ("parts",)

    def __init__(self, parts):
        self.parts = tuple(parts)

    @property
    def shape(self):
        """(O₁ + O₂ + ..., I)."""
        return sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]

    @property
    def nbytes(self):
        """The memory of all parts."""
        return sum(part.nbytes for part in self.parts)


# ---- from floating point and back

def quantize_rows(weight):
    """The nearest matrix of int8 with one scale a row: `quantize_groups` with eight bits and one group.

    weight: (O, I)  ->  values: (O, I), scales: (O, 1).
    """
    return quantize_groups(weight, 8, weight.shape[1])


def quantize_groups(weight, bits, group_size):
    """The nearest whole numbers, with a scale for each group of `group_size` columns of a row.

    weight: (O, I)  ->  a `QuantizedWeight` with G = I / group_size groups, in the dtype of the weight.

        8 bits    scale = max|w| / 127,            number = round(w / scale)
        4 bits    scale = (max w - min w) / 15,    number = round((w - min w) / scale),    offset = min w

    The largest and the smallest of a group are of the group, so that what is rounded lies between -127 and 127, or 0
    and 15, and so does the result: it is never cut off. Rounding moves it by 1/2 at most, and the weight by scale / 2:
    by 1/254 of the largest of its group with eight bits, and 1/30 of its range with four. A group of equal weights has
    the scale 0 with four bits, a group of zeros with eight; both are exact.

    Raises ValueError for other bits, a group that does not divide I, or one of four bits with an odd number of columns.
    """
    check_groups(weight.shape[1], bits, group_size)
    xp = array_namespace(weight)
    grouped = weight.reshape(len(weight), -1, group_size)                               # (O, I) -> (O, G, I/G)
    if bits == 8:
        scales = xp.max(xp.abs(grouped), axis=2) / LARGEST                              # (O, G)
        values = xp.clip(xp.rint(grouped / _divisors(scales)), -LARGEST, LARGEST)       # (O, G, I/G)
        return QuantizedWeight(values.astype("int8").reshape(weight.shape), scales)     # (O, I), (O, G)
    offsets = xp.min(grouped, axis=2)                                                   # (O, G)
    scales = (xp.max(grouped, axis=2) - offsets) / MOST                                 # (O, G)
    numbers = xp.clip(xp.rint((grouped - offsets[..., None]) / _divisors(scales)), 0, MOST)
    numbers = numbers.astype("uint8").reshape(weight.shape)                             # (O, G, I/G) -> (O, I)
    return QuantizedWeight(numbers[:, ::2] | numbers[:, 1::2] << 4, scales, offsets)    # (O, I/2), (O, G), (O, G)


def check_groups(width, bits, group_size):
    """Raise ValueError unless rows of `width` columns can be held with so many bits in groups of that size."""
    if bits not in (4, 8):
        raise ValueError(f"bits: expected 4 or 8, got {bits!r}")
    if group_size < 1 or width % group_size:
        raise ValueError(f"group_size: expected a divisor of the {width} columns, got {group_size}")
    if bits == 4 and group_size % 2:
        raise ValueError(f"group_size: expected an even number of columns for 4 bits, two a byte, got {group_size}")


def dequantize(weight, rows):
    """The rows of a `QuantizedWeight` as floats, in the dtype of its scales.

    rows: a slice -> (N, I), or an array of integers (...) -> (..., I).
    """
    xp = array_namespace(weight.scales)
    values, scales = weight.values[rows], weight.scales[rows]           # (..., I) or (..., I/2), (..., G)
    if weight.bits == 4:
        values = xp.stack([values & MOST, values >> 4], axis=-1)        # (..., I/2) -> (..., I/2, 2)
    group_size = weight.shape[1] // scales.shape[-1]
    numbers = values.reshape(*scales.shape, group_size).astype(scales.dtype)            # (..., G, I/G)
    floats = numbers * scales[..., None]
    if weight.offsets is not None:
        floats = floats + weight.offsets[rows][..., None]
    return floats.reshape(*scales.shape[:-1], weight.shape[1])          # (..., I)


# ---- the product

def quantized_linear(x, weight, *, dequantize=dequantize):
    """y = x @ weightᵀ.   x: (..., I), weight: a `QuantizedWeight` or `StackedWeight` (O, I)  ->  y: (..., O).

    The numbers become floats in blocks of rows, never all at once. With the weights of `quantize_groups`, y[o] is no
    further than Σ|x| · scale / 2, group by group, from what the weights that they were made of give.

    Raises ValueError where the shapes do not fit together, TypeError for values of another dtype.
    """
    check_product(x, weight)
    xp = array_namespace(x)
    if isinstance(weight, StackedWeight):
        products = [quantized_linear(x, part, dequantize=dequantize) if isinstance(part, Quantized)
                    else x @ part.T for part in weight.parts]                      # (..., I) @ (I, Oₙ) -> (..., Oₙ)
        return xp.concatenate(products, axis=-1)                        # (..., O₁), (..., O₂), ... -> (..., O)
    outputs, rows = weight.shape[0], as_rows(x)                         # (..., I) -> (N, I)
    y = xp.empty((rows.shape[0], outputs), dtype=x.dtype)               # (N, O)
    for start in range(0, outputs, BLOCK):
        block = slice(start, start + BLOCK)
        y[:, block] = rows @ dequantize(weight, block).astype(x.dtype).T        # (N, I) @ (I, block) -> (N, block)
    return y.reshape(*x.shape[:-1], outputs)                            # (N, O) -> (..., O)


def check_product(x, weight):
    """Raise unless x and the weight fit together: a kernel would read beyond their ends."""
    if isinstance(weight, QuantizedWeight):
        weight.check()
    if x.shape[-1:] != weight.shape[1:]:
        raise ValueError(f"weight: expected the shape (O, {x.shape[-1]}), by the last dimension of x, "
                         f"got {weight.shape}")


def _divisors(scales):
    """scales: (O, G) -> (O, G, 1), with 1 in the place of 0."""
    xp = array_namespace(scales)
    return xp.where(scales == 0, xp.ones_like(scales), scales)[..., None]
