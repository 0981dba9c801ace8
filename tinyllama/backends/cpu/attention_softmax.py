"""The softmax inside attention, forward and backward, for the scores of one query with the keys that it sees."""

import numpy as np
from numba.extending import register_jitable

from tinyllama.backends.cpu.exponential import exponential
from tinyllama.backends.cpu.maximum import largest


@register_jitable
def softmax_row(row, begin, end, scale):
    """Probabilities in place of the scores row[begin:end], times `scale`; the rest of the row becomes 0.

    Returns the logarithm of the sum of exponentials; 0 for a query that sees nothing.
    """
    zero, one = row.dtype.type(0), row.dtype.type(1)
    if end <= begin:
        row[:] = zero
        return zero
    row[:begin] = zero
    row[end:] = zero
    seen = row[begin:end]
    for j in range(seen.size):
        seen[j] *= scale
    highest, total = largest(seen), zero
    for j in range(seen.size):
        seen[j] = exponential(seen[j] - highest)
        total += seen[j]
    share = one / total
    for j in range(seen.size):
        seen[j] *= share
    return highest + np.log(total)


@register_jitable
def softmax_row_backward(row, drow, begin, end, scale, logsumexp):
    """The scores `row` become the probabilities P again, and dP, `drow`, becomes scale · P · (dP - Σ P · dP)."""
    zero = row.dtype.type(0)
    if end <= begin:
        row[:] = zero
        drow[:] = zero
        return
    row[:begin] = zero
    row[end:] = zero
    drow[:begin] = zero
    drow[end:] = zero
    seen, dseen = row[begin:end], drow[begin:end]
    total = zero
    for j in range(seen.size):
        seen[j] = exponential(seen[j] * scale - logsumexp)
        total += seen[j] * dseen[j]
    for j in range(seen.size):
        dseen[j] = scale * seen[j] * (dseen[j] - total)
