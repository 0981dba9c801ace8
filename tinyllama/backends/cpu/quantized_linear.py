"""Products with quantised weights: one row of x through a kernel, many through BLAS. Formulas: `tinyllama/ops`."""

import itertools

import numpy as np
from numba import config

from tinyllama.backends.cpu.compiling import as_matrix, contiguous, kernel, require_float
from tinyllama.backends.cpu.matrix_vector import (
    look_up_packed_row,
    multiply_int8_rows,
    multiply_packed_rows,
    split_byte,
)
from tinyllama.backends.cpu.packed_weight import ROWS, PackedWeight, pack
from tinyllama.backends.cpu.team import meet, run_as_team
from tinyllama.backends.threads import blas_threads, cores
from tinyllama.ops.quantized_linear import QuantizedWeight, StackedWeight, check_product
from tinyllama.ops.quantized_linear import dequantize as dequantize_readably

BLOCK_BYTES = 2**19     # what the floats of a block may take: they stay in the cache of a core


def quantized_linear(x, weight):
    """y = x @ weightᵀ.

    x: (..., I), weight: a `QuantizedWeight`, best as `pack` returns it, or a `StackedWeight` (O, I)  ->  y: (..., O).
    """
    require_float(x, "x")
    check_product(x, weight)
    rows = as_matrix(x)                                                                 # (..., I) -> (N, I)
    y = np.empty((len(rows), weight.shape[0]), x.dtype)                                 # (N, O)
    _multiply(rows, weight, y)
    return y.reshape(*x.shape[:-1], weight.shape[0])                                    # (N, O) -> (..., O)


def dequantize(weight, rows):
    """The rows of a weight as floats.   rows: a slice -> (N, I), or an array of integers (...) -> (..., I)."""
    if not isinstance(weight, PackedWeight):
        return dequantize_readably(weight, rows)
    outputs, inputs = weight.shape
    rows = np.arange(outputs)[rows] if isinstance(rows, slice) else np.asarray(rows)
    if rows.size and (rows.min() < 0 or rows.max() >= outputs):
        raise IndexError(f"rows: expected numbers from 0 to {outputs - 1}, got {rows.min()} to {rows.max()}")
    floats = np.empty((rows.size, inputs), weight.scales.dtype)                         # (N, I)
    flat = contiguous(rows, np.int64).reshape(-1)                                       # (...) -> (N,)
    _look_up(flat, *_memory(weight), floats)
    return floats.reshape(*rows.shape, inputs)                                          # (N, I) -> (..., I)


def _multiply(rows, weight, y):
    """Write rows @ weightᵀ into y.   rows: (N, I), y: (N, O)."""
    blocks, start = [], 0
    for part in weight.parts if isinstance(weight, StackedWeight) else (weight,):
        part_of_y = y[:, start:start + part.shape[0]]
        start += part.shape[0]
        if isinstance(part, np.ndarray):
            np.matmul(rows, part.T, out=part_of_y)
        elif len(rows) == 1:
            _multiply_one(rows[0], _in_dtype(part, rows.dtype), part_of_y[0])
        else:
            blocks += _blocks(_in_dtype(part, rows.dtype), part_of_y)
    if blocks:
        _multiply_blocks(rows, blocks)


def _in_dtype(weight, dtype):
    """The weight as the kernels take it, with scales of the dtype of x."""
    if isinstance(weight, PackedWeight):
        if weight.scales.dtype != dtype:
            raise TypeError(f"x: expected the dtype of the weight's scales, {weight.scales.dtype}, got {dtype}")
        return weight
    values, *others = weight
    in_dtype = QuantizedWeight(values, *(None if array is None else contiguous(array, dtype) for array in others))
    if weight.bits == 8 and weight.offsets is None and weight.scales.shape[1] == 1:
        return in_dtype._replace(values=contiguous(values))
    return pack(in_dtype)


def _multiply_one(x, weight, y):
    """x: (I,), y: (O,)."""
    if isinstance(weight, PackedWeight):
        work = np.empty(weight.scales.shape[1] + ROWS, x.dtype)
        _packed_product(*_memory(weight), x, work, y)
    else:
        _int8_product(weight.values.reshape(-1).view(np.uint8), weight.scales.reshape(-1), x, y)


def _blocks(weight, y):
    """[(weight, start, stop, columns of y), ...]: as many blocks of rows for each core, all of about the same size."""
    outputs, inputs = weight.shape
    height = max(BLOCK_BYTES // (inputs * y.itemsize), 1)
    units = -(-outputs // ROWS)                                         # which are not divided
    count = min(-(-outputs // (height * cores())) * cores(), units)
    bounds = [min(units * i // count * ROWS, outputs) for i in range(count + 1)]
    return [(weight, start, stop, y[:, start:stop]) for start, stop in itertools.pairwise(bounds)]


def _multiply_blocks(rows, blocks):
    """Block after block of the weight becomes floats, and then is multiplied; the cores share the blocks."""
    def work(rank, size, meeting):
        mine = blocks[rank::size]
        memory = np.empty(max((stop - start + ROWS) * rows.shape[1] for _, start, stop, _ in mine), rows.dtype)
        for weight, start, stop, y in mine:
            np.matmul(rows, _as_columns(weight, start, stop, memory), out=y)            # (N, I) @ (I, n) -> (N, n)
        return _meet(meeting, size)

    members = 1 if config.DISABLE_JIT else min(cores(), len(blocks))    # which meet in compiled code only
    with blas_threads(1):
        run_as_team(work, members)


def _as_columns(weight, start, stop, memory):
    """The rows `start` to `stop` - 1 of the weight as columns of floats, written to memory.   -> (I, stop - start)."""
    inputs = weight.shape[1]
    if isinstance(weight, PackedWeight):
        first, last = start // ROWS, -(-stop // ROWS)
        columns = memory[:(last - first) * ROWS * inputs].reshape(inputs, -1)
        _to_columns(*_memory(weight), first, last, columns)
        return columns[:, :stop - start]
    floats = memory[:(stop - start) * inputs].reshape(-1, inputs)
    _to_rows(weight.values[start:stop], weight.scales.reshape(-1)[start:stop], floats)
    return floats.T


def _memory(weight):
    """The arrays of a `PackedWeight` as the kernels take them: (bytes, bits, scales, offsets, groups)."""
    offsets = np.empty(0, weight.scales.dtype) if weight.offsets is None else weight.offsets.reshape(-1)
    return (weight.values.reshape(-1).view(np.uint8), weight.bits, weight.scales.reshape(-1), offsets,
            weight.scales.shape[1])


# ---- kernels

@kernel("(int64[::1], int64)")
def _meet(meeting, size):
    return meet(meeting, 1, size)



@kernel("(uint8[::1], T[::1], T[::1], T[::1])")
def _int8_product(values, scales, x, y):
    multiply_int8_rows(values, scales, 0, y.size, x, y)


@kernel("(int8[:, ::1], T[::1], T[:, ::1])")
def _to_rows(values, scales, floats):
    for r in range(values.shape[0]):
        for j in range(values.shape[1]):
            floats[r, j] = floats.dtype.type(values[r, j]) * scales[r]


@kernel("(uint8[::1], int64, T[::1], T[::1], int64, T[::1], T[::1], T[::1])")
def _packed_product(values, bits, scales, offsets, groups, x, work, y):
    multiply_packed_rows(values, bits, scales, offsets, groups, 0, y.size, x, work, y)


@kernel("(uint8[::1], int64, T[::1], T[::1], int64, int64, int64, T[:, ::1])")
def _to_columns(values, bits, scales, offsets, groups, first, last, columns):
    """columns[i, r] = the weight of column i and row first · ROWS + r."""
    inputs = columns.shape[0]
    width, zeros = inputs // groups, np.zeros(ROWS, scales.dtype)
    for block in range(first, last):
        left = (block - first) * ROWS
        for g in range(groups):
            place = block * groups + g
            group_scales = scales[place * ROWS:(place + 1) * ROWS]
            group_offsets = offsets[place * ROWS:(place + 1) * ROWS] if offsets.size > 0 else zeros
            start = place * width * ROWS * bits // 8
            for j in range(g * width, (g + 1) * width, 8 // bits):
                numbers = values[start:start + ROWS]
                start += ROWS
                if bits == 4:
                    even, odd = columns[j, left:left + ROWS], columns[j + 1, left:left + ROWS]
                    for r in range(ROWS):
                        low, high = split_byte(numbers[r])
                        even[r] = even.dtype.type(low) * group_scales[r] + group_offsets[r]
                        odd[r] = odd.dtype.type(high) * group_scales[r] + group_offsets[r]
                else:
                    signed, column = numbers.view(np.int8), columns[j, left:left + ROWS]
                    for r in range(ROWS):
                        column[r] = column.dtype.type(signed[r]) * group_scales[r] + group_offsets[r]


@kernel("(int64[::1], uint8[::1], int64, T[::1], T[::1], int64, T[:, ::1])")
def _look_up(rows, values, bits, scales, offsets, groups, floats):
    for n in range(rows.size):
        look_up_packed_row(values, bits, scales, offsets, groups, rows[n], floats[n])
