"""The length of all gradients together, in one pass without a temporary. Chapter 12."""

import numpy as np

from tinyllama.backends.cpu.compiling import contiguous, kernel, require_float
from tinyllama.backends.cpu.slices import run_over_slices

BLOCK_ELEMENTS = 4096       # summed on its own first: one long float32 sum would lose what is small beside it


def global_norm(gradient):
    """sqrt(Σ g²), the Euclidean length.   gradient: (N,)  ->  ().   The same bits for any number of threads."""
    require_float(gradient, "gradient")
    gradient = contiguous(gradient).reshape(-1)
    sums = np.empty(-(-gradient.size // BLOCK_ELEMENTS), gradient.dtype)        # one for each block
    run_over_slices(lambda start, stop: _sums_of_squares(gradient[start:stop], sums[start // BLOCK_ELEMENTS:]),
                    gradient.size)
    return np.sqrt(sums.sum())


@kernel("(T[::1], T[::1])")
def _sums_of_squares(x, sums):
    for n, start in enumerate(range(0, x.size, BLOCK_ELEMENTS)):
        block, total = x[start:start + BLOCK_ELEMENTS], x.dtype.type(0)
        for i in range(block.size):
            total += block[i] * block[i]
        sums[n] = total
