"""How the kernels of this folder are compiled: serial loops that release the GIL, once for each dtype, kept on disk."""

import contextlib
import functools
import hashlib
import re
import sys
from pathlib import Path

import numba
import numpy as np
from numba.core.caching import FunctionCache, IndexDataCacheFile

DTYPES = ("float32", "float64")

# What the compiler may do to a sum or a product: change the order, fuse, multiply by a reciprocal. It must not assume
# that there is no infinity or NaN: masks need the one, and users must see the other.
FASTMATH = {"reassoc", "contract", "arcp", "nsz"}

_kernels = []       # (dispatcher, signature) of every kernel of this folder


def kernel(signature):
    """Compile a function of contiguous arrays. `T` in the signature stands for float32 or float64, and `FLAT` for what
    `as_flat` makes of an array of four dimensions.

    Kernels are compiled on their first call, and `compile_kernels` does it beforehand. The code is kept beside the
    source, or in the user's cache folder, or, where neither can be written, only in memory; after an edit of any file
    of this folder it is compiled anew.
    """
    signature = signature.replace("FLAT", "T[::1], UniTuple(int64, 4)")

    def decorate(function):
        compiled = numba.njit(nogil=True, fastmath=FASTMATH, error_model="numpy")(function)
        if not numba.config.DISABLE_JIT:
            with contextlib.suppress(RuntimeError):         # no folder for the cache can be written
                compiled._cache = _Cache(function)
        _kernels.append((compiled, signature))
        return compiled
    return decorate


class _Cache(FunctionCache):
    """The compiled code of a kernel on disk. It is stale, and overwritten, where any source of this folder has changed.

    Numba's own looks at the file of the kernel alone, and a kernel is made of several. It also has the line in the name
    of its files, so that each edit above a kernel would leave the old ones behind.
    """

    def __init__(self, function):
        super().__init__(function)
        module = function.__module__.rpartition(".")[2]
        name = f"{module}.{function.__qualname__}-{sys.implementation.cache_tag}"
        stamp = self._impl.locator.get_source_stamp(), _digest_of_sources()
        self._cache_file = IndexDataCacheFile(self.cache_path, name, stamp)


@functools.cache
def _digest_of_sources():
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("[a-z_]*.py")):       # not what an editor keeps beside them
        digest.update(path.read_bytes())
    return digest.hexdigest()


def check_the_compiler():
    """Compile and call a function; raises whatever Numba raises where it does not work."""
    if numba.njit(lambda x: x + 1)(1) != 2:
        raise ArithmeticError("1 + 1 is not 2")


def compile_kernels(dtype):
    """Compile every kernel for one dtype; yields (done, total) before each, so that somebody can show how far it is."""
    if numba.config.DISABLE_JIT:
        return
    for done, (compiled, signature) in enumerate(_kernels):
        yield done, len(_kernels)
        compiled.compile(re.sub(r"\bT\b", np.dtype(dtype).name, signature))
    yield len(_kernels), len(_kernels)


def require_float(x, name):
    """Raise TypeError unless the kernels are compiled for the dtype of x."""
    if x.dtype.name not in DTYPES:
        raise TypeError(f"{name}: expected an array of {' or '.join(DTYPES)}, got {x.dtype}")


def require_flat(x, name):
    """Raise ValueError unless x has one dimension: the kernels that write in place count its elements."""
    if x.ndim != 1 or not x.flags.c_contiguous:
        raise ValueError(f"{name}: expected a contiguous array (N,), got the shape {x.shape}")


def contiguous(x, dtype=None):
    """x as a kernel takes it: contiguous and writable, copied only where it is not."""
    x = np.ascontiguousarray(x, dtype=dtype)
    return x if x.flags.writeable else x.copy()         # Numba would compile every kernel once more for read-only ones


def as_matrix(x, dtype=None):
    """x as a contiguous matrix with one row a vector: (..., D) -> (N, D)."""
    return contiguous(x, dtype).reshape(-1, x.shape[-1])


def as_flat(x):
    """The memory of x from its first element on, as one contiguous array, and the strides of x in elements.

    A kernel that is given both reads or writes x in any order without a copy of it; the stride of a dimension of length
    1 is 0. x is copied where the elements of its last dimension do not follow one another, or several of its elements
    are the same memory.
    """
    odd = any(length > 1 and (stride <= 0 or stride % x.itemsize)
              for length, stride in zip(x.shape, x.strides, strict=True))
    if x.strides[-1] != x.itemsize or odd or not x.flags.writeable:
        x = np.array(x, order="C")
    strides = tuple(0 if length == 1 else stride // x.itemsize
                    for length, stride in zip(x.shape, x.strides, strict=True))
    span = 1 + sum((length - 1) * stride for length, stride in zip(x.shape, strides, strict=True))
    return np.lib.stride_tricks.as_strided(x, (span,), (x.itemsize,)), strides
