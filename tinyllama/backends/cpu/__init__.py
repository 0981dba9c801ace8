"""The backend named "numba": compiled kernels for the hot loops, BLAS for the products, and NumPy for the rest.

The files named in OPERATIONS replace those of the same name in `tinyllama/ops/`, which is the version to read first.
Others are what kernels are made of: how they are compiled (`compiling`), one number (`exponential`), one row
(`maximum`, `attention_softmax`, `matrix_vector`), a quantised matrix (`packed_weight`), a matrix product (`blas`), a
long array (`slices`); the two ways of attention (`attention_fused`, `attention_blocks`); and a whole token at once
(`decoding`, with its `matrices` of every kind and the threads of a `team`).
To begin with: compiling, relu, softmax, rmsnorm, attention.
"""

import importlib
import importlib.util

import numpy as np

from tinyllama.backends.backend import Backend
from tinyllama.backends.reference import aligned_zeros
from tinyllama.ops import OPS

OPERATIONS = ("adamw", "attention", "cross_entropy", "dropout", "embedding", "gelu", "gradient_norm", "layernorm",
              "log_softmax", "quantized_linear", "relu", "rmsnorm", "rope", "sampling", "sgd", "sigmoid", "silu",
              "softmax", "swiglu")


def is_available():
    """Whether Numba is installed."""
    return importlib.util.find_spec("numba") is not None


def load():
    """The backend of the compiled kernels, which are compiled on their first use.

    Raises RuntimeError where Numba is installed but cannot be imported or cannot compile.
    """
    try:
        from tinyllama.backends.cpu.compiling import check_the_compiler, compile_kernels
        check_the_compiler()
        from tinyllama.backends.cpu.decoding import new_token_step
        from tinyllama.backends.cpu.packed_weight import pack
        modules = [importlib.import_module(f"{__name__}.{name}") for name in OPERATIONS]
    except Exception as error:          # Numba has many ways to fail, and each means the same here
        what = f"{type(error).__name__}: {error}"
        raise RuntimeError(f"numba: expected an installation that works, got {what}") from error
    functions = {name: next((vars(module)[name] for module in modules if name in vars(module)), readable)
                 for name, readable in OPS.items()}
    return Backend("numba", np, functions, asarray=np.asarray, to_numpy=np.asarray, zeros=aligned_zeros,
                   synchronize=lambda: None, runs_in_threads=True, new_token_step=new_token_step, pack=pack,
                   compile_kernels=compile_kernels)
