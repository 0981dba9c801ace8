"""The backend named "numba": compiled kernels for the hot loops, BLAS for the products, and NumPy for the rest.

Every file here replaces the operation of the same name in `tinyllama/ops/`, which is the version to read first.
"""

import importlib.util

import numpy as np

from tinyllama.backends.backend import Backend
from tinyllama.backends.reference import aligned_zeros
from tinyllama.ops import OPS


def is_available():
    """Whether Numba is installed."""
    return importlib.util.find_spec("numba") is not None


def load():
    """The backend of the compiled kernels, which are compiled on their first use."""
    from tinyllama.backends.cpu import adamw, attention, cross_entropy, embedding, gradient_norm, rmsnorm, rope, swiglu
    modules = (adamw, attention, cross_entropy, embedding, gradient_norm, rmsnorm, rope, swiglu)
    functions = {name: next((vars(module)[name] for module in modules if name in vars(module)), readable)
                 for name, readable in OPS.items()}
    return Backend("numba", np, functions, asarray=np.asarray, to_numpy=np.asarray, zeros=aligned_zeros,
                   synchronize=lambda: None, runs_in_threads=True)
