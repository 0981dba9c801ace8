"""Matrices of every kind behind one call, each found by its address: a kernel takes no list of different arrays.

A matrix is a few whole numbers in a table: its kind, where its arrays lie, and how many groups a row has.
"""

import ctypes

import numpy as np
from numba import carray, types
from numba.extending import intrinsic, overload, register_jitable

from tinyllama.backends.cpu.matrix_vector import (
    look_up_packed_row,
    multiply_float_rows,
    multiply_int8_rows,
    multiply_packed_rows,
)
from tinyllama.backends.cpu.packed_weight import ROWS, PackedWeight
from tinyllama.ops.quantized_linear import QuantizedWeight, StackedWeight

FLOATS, INT8, PACKED_8, PACKED_4 = 0, 1, 8, 4           # kinds; of the packed ones, the bits of a number
VALUES, SCALES, OFFSETS, GROUPS, BIAS = 1, 2, 3, 4, 5   # places after that of the kind
LENGTH = 6              # numbers that describe a matrix


def describe(matrix, bias=None):
    """[kind, address of the values, of the scales, of the offsets, number of groups, address of the bias].

    matrix: an array, int8 with one scale a row, or a `PackedWeight`, which must not move. Addresses of what is not
    there are 0. Raises ValueError for an array that is not contiguous.
    """
    if isinstance(matrix, PackedWeight):
        return [matrix.bits, address_of(matrix.values), address_of(matrix.scales), address_of(matrix.offsets),
                matrix.scales.shape[1], address_of(bias)]
    if isinstance(matrix, QuantizedWeight):
        return [INT8, address_of(matrix.values), address_of(matrix.scales), 0, 1, address_of(bias)]
    return [FLOATS, address_of(matrix), 0, 0, 1, address_of(bias)]


def split(matrix, bias, heights):
    """[(rows of a matrix, their bias), ...]: parts of so many rows, which are views where it is one array."""
    parts, start = [], 0
    for number, height in enumerate(heights):
        rows = slice(start, start + height)
        part = matrix.parts[number] if isinstance(matrix, StackedWeight) else matrix[rows]
        parts.append((part, None if bias is None else bias[rows]))
        start += height
    return parts


def unit(matrix):
    """How many rows are computed together, so that threads had better not divide them."""
    return ROWS if isinstance(matrix, PackedWeight) else 1


def most_groups(matrices):
    """The largest number of groups that a row has in any of them."""
    return max((matrix.scales.shape[1] for matrix in matrices if isinstance(matrix, PackedWeight)), default=1)


@register_jitable
def multiply(table, place, bytes_of, outputs, first, last, x, work, y):
    """y[r] = weight[r] · x + bias[r] for the rows r from `first` to `last` - 1 of the matrix at a place of the table.

    bytes_of: an array of uint8, for its type alone. outputs: how many rows the matrix has. work: see
    `multiply_packed_rows`.
    """
    kind, groups = table[place], table[place + GROUPS]
    if kind == FLOATS:
        multiply_float_rows(array_at(table[place + VALUES], outputs * x.size, x), first, last, x, y)
    elif kind == INT8:
        weights = array_at(table[place + VALUES], outputs * x.size, bytes_of)
        multiply_int8_rows(weights, array_at(table[place + SCALES], outputs, x), first, last, x, y)
    else:
        padded = (outputs + ROWS - 1) // ROWS * ROWS
        weights = array_at(table[place + VALUES], padded * x.size * kind // 8, bytes_of)
        scales, offsets = _groups_at(table, place, padded, x)
        multiply_packed_rows(weights, kind, scales, offsets, groups, first, last, x, work, y)
    if table[place + BIAS] != 0:
        bias = array_at(table[place + BIAS], outputs, x)
        for r in range(first, last):
            y[r] += bias[r]


@register_jitable
def look_up(table, place, bytes_of, row, y):
    """y = one row of the matrix at a place of the table."""
    kind = table[place]
    width = y.size
    if kind == FLOATS:
        weights = array_at(table[place + VALUES], (row + 1) * width, y)
        for j in range(width):
            y[j] = weights[row * width + j]
    elif kind == INT8:
        numbers = array_at(table[place + VALUES], (row + 1) * width, bytes_of)[row * width:].view(np.int8)
        scale = array_at(table[place + SCALES], row + 1, y)[row]
        for j in range(width):
            y[j] = y.dtype.type(numbers[j]) * scale
    else:
        padded = (row // ROWS + 1) * ROWS
        weights = array_at(table[place + VALUES], padded * width * kind // 8, bytes_of)
        scales, offsets = _groups_at(table, place, padded, y)
        look_up_packed_row(weights, kind, scales, offsets, table[place + GROUPS], row, y)


@register_jitable
def _groups_at(table, place, padded, x):
    """The scales and the offsets of a packed matrix; offsets of length 0 where there are none."""
    length = padded * table[place + GROUPS]
    scales = array_at(table[place + SCALES], length, x)
    if table[place + OFFSETS] == 0:
        return scales, scales[:0]
    return scales, array_at(table[place + OFFSETS], length, x)


# ---- an array by its address

def address_of(array):
    """Where an array lies; 0 for None. Raises ValueError where it is not contiguous."""
    if array is None:
        return 0
    if not array.flags.c_contiguous:
        raise ValueError(f"new_token_step: expected contiguous arrays, got the strides {array.strides}")
    return array.ctypes.data


def array_at(address, length, like):
    """The array of `length` numbers of the dtype of `like` that lies at an address."""
    memory = (ctypes.c_char * (int(length) * like.itemsize)).from_address(int(address))
    return np.frombuffer(memory, like.dtype)


@overload(array_at, inline="always")
def _compiled_array_at(address, length, like):
    return lambda address, length, like: carray(_pointer(address, like), (length,))


@intrinsic
def _pointer(typing, address, like):
    pointer = types.CPointer(like.dtype)

    def generate(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(pointer))
    return pointer(address, like), generate
