"""Quantised weights in the order in which the kernels read them: blocks of rows that lie side by side.

A scale for each group of columns, used in the middle of a row, would stop the compiler from doing several columns at a
time. So it does several rows at a time instead: of ROWS rows, the numbers of one column follow one another in memory,
and so do their scales.

    rows 0 .. 63, column 0 | rows 0 .. 63, column 1 | ... | rows 64 .. 127, column 0 | ...
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyllama.backends.reference import aligned_zeros
from tinyllama.ops.quantized_linear import Quantized, QuantizedWeight

ROWS = 64           # of a block: with 32, a core reads a quarter less a second


@dataclass(frozen=True, eq=False)
class PackedWeight(Quantized):
    """What `pack` makes of a `QuantizedWeight` (O, I). The last block is filled up with rows of zeros."""

    values: Any         # (blocks, I, ROWS) int8, or (blocks, I/2, ROWS) uint8
    scales: Any         # (blocks, G, ROWS)
    offsets: Any        # (blocks, G, ROWS), or None
    shape: tuple        # (O, I)

    @property
    def bits(self):
        """8 or 4: of each number."""
        return 4 if self.values.dtype == np.uint8 else 8

    @property
    def nbytes(self):
        """The memory of its arrays."""
        return sum(array.nbytes for array in (self.values, self.scales, self.offsets) if array is not None)

    def unpack(self):
        """The same weight as a `QuantizedWeight`, with arrays of its own."""
        return QuantizedWeight(*(None if array is None else _one_after_another(array, self.shape[0])
                                 for array in (self.values, self.scales, self.offsets)))


def pack(weight):
    """A copy of a `QuantizedWeight` in the order in which the kernels read it: a `PackedWeight`.

    Int8 with one scale a row and no offsets stays as it is, row after row: there, the scale comes after the sum.
    Raises TypeError or ValueError where its arrays do not fit together.
    """
    weight.check()
    if weight.bits == 8 and weight.offsets is None and weight.scales.shape[1] == 1:
        return weight.map(_aligned_copy)
    return PackedWeight(*(None if array is None else _side_by_side(array) for array in weight), weight.shape)


def _side_by_side(array):
    """(O, n) -> (blocks, n, ROWS)."""
    rows, width = array.shape
    whole, rest = divmod(rows, ROWS)
    blocks = whole + (rest > 0)
    packed = aligned_zeros(blocks * width * ROWS, array.dtype).reshape(blocks, width, ROWS)
    packed[:whole] = array[:whole * ROWS].reshape(whole, ROWS, width).transpose(0, 2, 1)
    if rest:
        packed[whole, :, :rest] = array[whole * ROWS:].T
    return packed


def _one_after_another(packed, rows):
    """(blocks, n, ROWS) -> (O, n)."""
    return packed.transpose(0, 2, 1).reshape(-1, packed.shape[1])[:rows].copy()


def _aligned_copy(array):
    copied = aligned_zeros(array.size, array.dtype).reshape(array.shape)
    copied[...] = array
    return copied
