"""The largest number of a row inside a kernel, several at a time."""

import numpy as np
from numba import types
from numba.extending import overload, register_jitable

MAGNITUDE = np.int32(0x7FFFFFFF)        # all bits but the sign


def largest(row):
    """The largest of some numbers (n,), n at least 1. NaN may be returned or passed over where there is one."""
    return np.max(row)


@register_jitable
def largest_by_bits(row):
    """The largest of some float32, found among integers.

    The compiler does not do several comparisons of floats at a time, because NaN would make their order matter; of
    integers it does. The bits of positive floats, read as integers, have the order of the floats. Those of negative
    ones have the sign bit in front and the reverse order, which flipping the other bits puts right.
    """
    bits = row.view(np.int32)
    best = np.int32(-2**31)
    for j in range(bits.size):
        best = max(best, np.int32(bits[j] ^ (bits[j] >> np.int32(31) & MAGNITUDE)))
    return np.int32(best ^ (best >> np.int32(31) & MAGNITUDE)).view(np.float32)


@overload(largest)
def _compiled_largest(row):
    if row.dtype == types.float32:
        return lambda row: largest_by_bits(row)

    def one_by_one(row):
        best = row[0]
        for j in range(row.size):
            best = max(best, row[j])
        return best
    return one_by_one
