"""A matrix times one vector: what decoding spends its time on, and as fast as memory gives the matrix.

Floats, and int8 with one scale a row, are read row after row, in the order in which they lie: one stream is what the
hardware foresees best. Two or four rows at a time read a quarter less a second. Numbers with a scale for each group of
columns come in blocks of rows that lie side by side (see packed_weight.py), and those are summed up together.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload, register_jitable

from tinyllama.backends.cpu.packed_weight import ROWS

AHEAD = 8192            # bytes: how far before their use weights of int8 are asked for
LINE = 64               # bytes of a cache line
UNROLLED = 16           # bytes of a row whose products are one expression: no sum waits in memory between them


@register_jitable
def multiply_float_rows(weights, first, last, x, y):
    """y[r] = weights[r] · x for the rows r from `first` to `last` - 1.   weights: (O · I,), x: (I,), y: (O,).

    A row is summed in the same order whatever `first` and `last` are.
    """
    width = x.size
    for r in range(first, last):
        row = weights[r * width:(r + 1) * width]
        total = x.dtype.type(0)
        for j in range(width):
            total += row[j] * x[j]
        y[r] = total


@register_jitable
def multiply_int8_rows(weights, scales, first, last, x, y):
    """y[r] = Σ weights[r] · x · scales[r], as above; weights: the bytes of int8, scales: (O,).

    Numbers of int8 become floats one by one, and the sum is kept in the dtype of x.
    """
    width, numbers = x.size, weights.view(np.int8)
    for r in range(first, last):
        # A core is busier with a line of int8 than with one of float32, and then asks too late for the next ones.
        for j in range(0, width, LINE):
            prefetch(numbers, r * width + j + AHEAD)
        row = numbers[r * width:(r + 1) * width]
        total = x.dtype.type(0)
        for j in range(width):
            total += x.dtype.type(row[j]) * x[j]
        y[r] = total * scales[r]


@register_jitable
def multiply_packed_rows(weights, bits, scales, offsets, groups, first, last, x, work, y):
    """y[r] = Σ over the groups g of scales[g, r] · (numbers[r] · x of the group) + offsets[g, r] · Σ x of the group.

    weights: the bytes, and scales and offsets the numbers, of a `PackedWeight` in a row; offsets of length 0 are zeros.
    work: (groups + ROWS,) numbers of the dtype of x to write into. A block is summed up as a whole wherever `first` and
    `last` are, so that a row has the same bits in any share.
    """
    width = x.size // groups                            # columns of a group
    nbytes = ROWS * width * bits // 8                   # of a group in a block
    sums, totals = work[:groups], work[groups:groups + ROWS]
    if offsets.size > 0:
        _sum_groups(x, width, sums)
    for block in range(first // ROWS, (last + ROWS - 1) // ROWS):
        for r in range(ROWS):
            totals[r] = x.dtype.type(0)
        for g in range(groups):
            place = block * groups + g
            numbers = weights[place * nbytes:(place + 1) * nbytes]
            group_scales = scales[place * ROWS:(place + 1) * ROWS]
            columns = x[g * width:(g + 1) * width]
            if bits == 4:
                _add_group_of_4_bits(numbers, group_scales, columns, totals)
            else:
                _add_group_of_8_bits(numbers.view(np.int8), group_scales, columns, totals)
            if offsets.size > 0:
                group_offsets, total = offsets[place * ROWS:(place + 1) * ROWS], sums[g]
                for r in range(ROWS):
                    totals[r] += group_offsets[r] * total
        for r in range(max(first - block * ROWS, 0), min(last - block * ROWS, ROWS)):
            y[block * ROWS + r] = totals[r]


@register_jitable
def _sum_groups(x, width, sums):
    """sums[g] = Σ x over the columns of group g."""
    for g in range(sums.size):
        total = x.dtype.type(0)
        for j in range(g * width, (g + 1) * width):
            total += x[j]
        sums[g] = total


@register_jitable(inline="always")
def _add_group_of_8_bits(numbers, scales, x, totals):
    """totals += scales · (numbers @ x), for the rows of a block.   numbers: (I/G · ROWS,), x: (I/G,)."""
    unrolled = x.size - x.size % UNROLLED
    for k in range(0, unrolled, UNROLLED):
        some, columns = numbers[k * ROWS:(k + UNROLLED) * ROWS], x[k:k + UNROLLED]
        for r in range(ROWS):
            total = x.dtype.type(0)
            for i in range(UNROLLED):
                total += x.dtype.type(some[i * ROWS + r]) * columns[i]
            totals[r] += scales[r] * total
    for k in range(unrolled, x.size):
        some, column = numbers[k * ROWS:(k + 1) * ROWS], x[k]
        for r in range(ROWS):
            totals[r] += scales[r] * (x.dtype.type(some[r]) * column)


@register_jitable(inline="always")
def _add_group_of_4_bits(numbers, scales, x, totals):
    """totals += scales · (numbers @ x), as above; numbers: (I/2G · ROWS,), two a byte."""
    height = x.size // 2
    unrolled = height - height % UNROLLED
    for k in range(0, unrolled, UNROLLED):
        some, columns = numbers[k * ROWS:(k + UNROLLED) * ROWS], x[2 * k:2 * (k + UNROLLED)]
        for r in range(ROWS):
            total = x.dtype.type(0)
            for i in range(UNROLLED):
                low, high = split_byte(some[i * ROWS + r])
                total += x.dtype.type(low) * columns[2 * i] + x.dtype.type(high) * columns[2 * i + 1]
            totals[r] += scales[r] * total
    for k in range(unrolled, height):
        some, left, right = numbers[k * ROWS:(k + 1) * ROWS], x[2 * k], x[2 * k + 1]
        for r in range(ROWS):
            low, high = split_byte(some[r])
            totals[r] += scales[r] * (x.dtype.type(low) * left + x.dtype.type(high) * right)


@register_jitable
def look_up_packed_row(weights, bits, scales, offsets, groups, row, y):
    """y = the weights of one row of a `PackedWeight`, (I,)."""
    block, r = row // ROWS, row % ROWS
    width = y.size // groups
    for j in range(y.size):
        place = (block * groups + j // width) * ROWS + r
        byte = weights[(block * y.size + j) * bits // 8 * ROWS + r]
        if bits == 4:
            low, high = split_byte(byte)
            number = y.dtype.type(high if j % 2 else low)
        else:
            number = y.dtype.type(byte) - y.dtype.type(256 if byte > 127 else 0)    # as int8
        y[j] = number * scales[place]
        if offsets.size > 0:
            y[j] += offsets[place]


@register_jitable(inline="always")
def split_byte(byte):
    """(low half, high half), from 0 to 15 each."""
    wide = np.int32(byte)
    return np.int32(wide & np.int32(15)), np.int32(wide >> np.int32(4))


# ---- asking for memory before it is needed

def prefetch(x, i):
    """Ask for the cache line of x[i], which may lie beyond the end, to be in the second-level cache: the first is busy.

    Uncompiled, it does nothing.
    """


@overload(prefetch)
def _compiled_prefetch(x, i):
    return lambda x, i: _prefetch(x, i)


@intrinsic
def _prefetch(typing, x, i):
    def generate(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        place = builder.bitcast(builder.gep(array.data, [args[1]]), byte)
        function = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        to_read, second_level, data = (ir.Constant(number, value) for value in (0, 2, 1))
        builder.call(cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0i8"),
                     [place, to_read, second_level, data])
        return context.get_dummy_value()
    return types.void(x, types.int64), generate
