"""A matrix times one vector: what decoding spends its time on, and as fast as memory gives the matrix.

The rows are read one after another, in the order in which they lie: one stream is what the hardware foresees best.
Two or four rows at a time read a quarter less a second.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload, register_jitable

AHEAD = 8192            # bytes: how far before their use weights of int8 are asked for
LINE = 64               # bytes of a cache line


def multiply_rows(weights, scales, first, last, x, y):
    """y[r] = Σ weights[r] · x, times scales[r] where the weights are int8, for the rows r from `first` to `last` - 1.

    weights: (O · I,) of float or int8, scales: (O,), x: (I,), y: (O,). Numbers of int8 become floats one by one, and
    the sum is kept in the dtype of x. A row is summed in the same order whatever `first` and `last` are.
    """
    if weights.dtype == np.int8:
        _multiply_int8_rows(weights, scales, first, last, x, y)
    else:
        _multiply_float_rows(weights, first, last, x, y)


@overload(multiply_rows)
def _compiled_multiply_rows(weights, scales, first, last, x, y):
    if weights.dtype == types.int8:
        return lambda weights, scales, first, last, x, y: _multiply_int8_rows(weights, scales, first, last, x, y)
    return lambda weights, scales, first, last, x, y: _multiply_float_rows(weights, first, last, x, y)


@register_jitable
def _multiply_float_rows(weights, first, last, x, y):
    width = x.size
    for r in range(first, last):
        row = weights[r * width:(r + 1) * width]
        total = x.dtype.type(0)
        for j in range(width):
            total += row[j] * x[j]
        y[r] = total


@register_jitable
def _multiply_int8_rows(weights, scales, first, last, x, y):
    width = x.size
    for r in range(first, last):
        # A core is busier with a line of int8 than with one of float32, and then asks too late for the next ones.
        for j in range(0, width, LINE):
            prefetch(weights, r * width + j + AHEAD)
        row = weights[r * width:(r + 1) * width]
        total = x.dtype.type(0)
        for j in range(width):
            total += x.dtype.type(row[j]) * x[j]
        y[r] = total * scales[r]


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
