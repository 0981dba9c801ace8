"""The gradient of a table of vectors. Formulas: `tinyllama/ops/embedding.py`; derived in chapter 04."""

import numpy as np

from tinyllama.backends.cpu.compiling import as_matrix, contiguous, kernel, require_float
from tinyllama.ops.array import require_shape
from tinyllama.ops.embedding import embedding_forward

__all__ = ["embedding_backward", "embedding_forward"]       # a look-up is as fast as NumPy's


def embedding_backward(dy, cache, needs=None):
    """dweight[v] = Σ over the positions n with ids[n] = v of dy[n].   dy: (..., D)  ->  dweight: (V, D)."""
    require_float(dy, "dy")
    ids, table_shape = cache
    require_shape(dy, (*ids.shape, table_shape[1]), "dy", "y")
    dweight = np.zeros(table_shape, dy.dtype)                                           # (V, D)
    _add_rows(contiguous(ids, dtype=np.int64).reshape(-1), as_matrix(dy), dweight)
    return dweight


@kernel("(int64[::1], T[:, ::1], T[:, ::1])")
def _add_rows(ids, rows, table):
    for n in range(len(ids)):
        for j in range(rows.shape[1]):
            table[ids[n], j] += rows[n, j]
