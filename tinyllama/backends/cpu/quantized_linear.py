"""Products with weights of int8: one row through a kernel, many through BLAS. Formula: `tinyllama/ops`, same name."""

import numpy as np

from tinyllama.backends.cpu.compiling import as_matrix, contiguous, kernel, require_float
from tinyllama.backends.cpu.matrix_vector import multiply_rows
from tinyllama.ops.quantized_linear import check_quantized

BLOCK_BYTES = 2**19     # what the floats of a block may take: they stay in the cache of a core


def quantized_linear(x, values, scales):
    """y = x @ (values · scales)ᵀ.   x: (..., I), values: (O, I) int8, scales: (O, 1)  ->  y: (..., O)."""
    require_float(x, "x")
    check_quantized(x, values, scales)
    rows, values = as_matrix(x), contiguous(values)                                     # (N, I), (O, I)
    outputs, inputs = values.shape
    flat_scales = contiguous(scales, x.dtype).reshape(-1)                               # (O, 1) -> (O,)
    y = np.empty((len(rows), outputs), x.dtype)                                         # (N, O)
    if len(rows) == 1:
        _product(values.reshape(-1), flat_scales, rows[0], y[0])
        return y.reshape(*x.shape[:-1], outputs)
    height = min(outputs, max(1, BLOCK_BYTES // (inputs * x.itemsize)))
    block = np.empty((height, inputs), x.dtype)                                         # one block after another
    for start in range(0, outputs, height):
        stop = min(start + height, outputs)
        floats = block[:stop - start]
        _to_floats(values[start:stop], flat_scales[start:stop], floats)
        np.matmul(rows, floats.T, out=y[:, start:stop])                             # (N, I) @ (I, block) -> (N, block)
    return y.reshape(*x.shape[:-1], outputs)                                            # (N, O) -> (..., O)


@kernel("(int8[::1], T[::1], T[::1], T[::1])")
def _product(values, scales, x, y):
    multiply_rows(values, scales, 0, y.size, x, y)


@kernel("(int8[:, ::1], T[::1], T[:, ::1])")
def _to_floats(values, scales, floats):
    for r in range(values.shape[0]):
        for j in range(values.shape[1]):
            floats[r, j] = floats.dtype.type(values[r, j]) * scales[r]
