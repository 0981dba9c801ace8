"""The backend named "numpy": the operations of `tinyllama.ops` as they are, on NumPy arrays."""

import numpy as np

from tinyllama.backends.backend import Backend
from tinyllama.ops import OPS

ALIGNMENT = 64      # bytes: a cache line, and the widest vector register


def is_available():
    """NumPy is always there."""
    return True


def load():
    """The backend of the readable operations."""
    return Backend("numpy", np, dict(OPS), asarray=np.asarray, to_numpy=np.asarray, zeros=aligned_zeros,
                   synchronize=lambda: None, runs_in_threads=True)


def aligned_zeros(size, dtype):
    """A flat array of zeros that begins on a multiple of 64 bytes; NumPy alone promises 16."""
    dtype = np.dtype(dtype)
    raw = np.zeros(size * dtype.itemsize + ALIGNMENT, dtype=np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start:start + size * dtype.itemsize].view(dtype)
