"""exp of one number inside a kernel, written so that the compiler can do eight or sixteen of them at a time."""

import math

import numpy as np
from numba import types
from numba.extending import overload, register_jitable

LOG2_E = np.float32(1 / math.log(2))
# ln(2) in two pieces: k times the first is exact, because its last 9 bits are zero.
LN_2_HIGH = np.float32(0.693359375)
LN_2_LOW = np.float32(math.log(2) - 0.693359375)
# The Taylor series of exp around 0 up to x⁶, which is enough for |x| <= ln(2) / 2: the first term left out is 2e-8.
C2, C3, C4, C5, C6 = (np.float32(1 / math.factorial(n)) for n in range(2, 7))
ONE, HALF = np.float32(1), np.float32(0.5)
LOWEST, HIGHEST = np.float32(-127 * math.log(2)), np.float32(128 * math.log(2))


def exponential(x):
    """exp(x). Numbers of float32 are done by `fast_exponential` in compiled code, those of float64 by the C library."""
    return np.exp(x)


# Not "reassoc", which would put the two pieces of ln(2) together again.
@register_jitable(fastmath={"contract"})
def fast_exponential(x):
    """exp(x) = 2^k · exp(r) for a number of float32, with k the whole number nearest to x / ln(2) and r the rest.

    exp(r) is a polynomial, and 2^k is a float32 whose bits are made by hand: the exponent k + 127, shifted to its
    place. Below k = -126 the result is exactly 0, above k = 127 it is infinite, and NaN stays NaN. The relative error
    is at most 3e-7.
    """
    if x < LOWEST:                  # not max(): it would turn NaN into a number
        x = LOWEST
    if x > HIGHEST:
        x = HIGHEST
    k = np.floor(x * LOG2_E + HALF)
    r = (x - k * LN_2_HIGH) - k * LN_2_LOW
    polynomial = ONE + r * (ONE + r * (C2 + r * (C3 + r * (C4 + r * (C5 + r * C6)))))
    return polynomial * np.int32((np.int32(k) + np.int32(127)) << np.int32(23)).view(np.float32)


@overload(exponential, inline="always")
def _compiled_exponential(x):
    if x == types.float32:
        return lambda x: fast_exponential(x)
    return lambda x: math.exp(x)
