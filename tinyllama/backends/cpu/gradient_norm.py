"""The length of all gradients together, in one pass without a temporary. Chapter 12."""

import numpy as np

from tinyllama.backends.cpu.compiling import contiguous, kernel, require_float

BLOCK = 4096        # summed on its own first: one long float32 sum would lose what is small beside it


def global_norm(gradient):
    """sqrt(Σ g²), the Euclidean length.   gradient: (N,)  ->  ()."""
    require_float(gradient, "gradient")
    return np.sqrt(gradient.dtype.type(_sum_of_squares(contiguous(gradient))))      # Numba returns Python's float


@kernel("(T[::1],)")
def _sum_of_squares(x):
    total = x.dtype.type(0)
    for start in range(0, x.size, BLOCK):
        part = x.dtype.type(0)
        for i in range(start, min(start + BLOCK, x.size)):
            part += x[i] * x[i]
        total += part
    return total
