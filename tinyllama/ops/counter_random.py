"""Random numbers that are a function of a key and a counter, with no state between calls.

Whoever knows the key draws the same numbers, on any backend and with any number of workers. The functions below are
finalisers: they multiply by an odd number and fold the high bits down, so that inputs which differ in one bit differ in
about half of the bits afterwards. Sources of the constants: MurmurHash3 (Appleby, public domain) for arrays of 32 bits,
SplitMix64 (Steele, Lea & Flood 2014) for single numbers of 64.
"""

import operator

_MASK64 = 2**64 - 1


def random_key(*numbers):
    """One integer of 64 bits from several, such as (seed, step, micro-step, layer, site). Their order matters.

    Raises TypeError for a number that is no integer.
    """
    key = 0
    for number in numbers:
        key = _mix64(key ^ (operator.index(number) & _MASK64))
    return key


def uniform_number(*numbers):
    """A number in 0 .. 1 (1 excluded) that is a function of its arguments, such as (seed, step, row)."""
    return (random_key(*numbers) >> 11) / 2**53


def random_uint32(xp, shape, *, key, first_row=0):
    """An array of `shape` of uniform 32-bit integers, each a function of (key, row, position in the row).

    The rows are those from `first_row` on: a worker draws for its rows what one worker with all rows would draw.
    """
    key &= _MASK64
    size = 1
    for dimension in shape[1:]:
        size *= dimension
    rows = xp.arange(first_row, first_row + shape[0], dtype=xp.uint32)[:, None]     # (B, 1)
    positions = xp.arange(size, dtype=xp.uint32)                                    # (size,)
    row_hash = _mix32(_mix32(_mix32(rows) ^ (key & 0xFFFFFFFF)) ^ (key >> 32))      # (B, 1)
    return _mix32(_mix32(positions) ^ row_hash).reshape(shape)                      # (B, size) -> (B, ...)


def _mix64(z):
    z = (z + 0x9E3779B97F4A7C15) & _MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
    return z ^ (z >> 31)


def _mix32(h):
    """h: an array of uint32, whose products wrap around, as they should."""
    h = (h ^ (h >> 16)) * 0x85EBCA6B
    h = (h ^ (h >> 13)) * 0xC2B2AE35
    return h ^ (h >> 16)
