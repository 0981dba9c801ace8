"""The operations of any backend as functions of NumPy arrays, so that one test serves every backend."""

import functools

import numpy as np

from tinyllama.ops import OPS


class OnHost:
    """`OnHost(backend).softmax_forward(x)`: NumPy arrays in, NumPy arrays out, wherever the backend computes.

    A cache stays as the backend made it, and is only ever handed back to the backward function. `gradcheck` takes the
    pairs as they are.
    """

    def __init__(self, backend):
        self.backend = backend

    def __getattr__(self, name):
        function = getattr(self.backend, name)

        @functools.wraps(OPS[name])
        def call(*args, **settings):
            if name.endswith("_backward"):
                dy, cache, *rest = args
                return self.download(function(self.upload(dy), cache, *rest, **settings))
            result = function(*self.upload(args), **self.upload(settings))
            if name.endswith("_forward"):
                return self.download(result[0]), result[1]
            return self.download(result)
        return call

    def upload(self, tree):
        """The same nesting with every NumPy array given to the backend."""
        return map_arrays(self.backend.asarray, tree, np.ndarray)

    def download(self, tree):
        """The same nesting with every array of the backend as a NumPy array."""
        return map_arrays(self.backend.to_numpy, tree)

    def run(self, case, dy=None, needs=None):
        """y, the gradients as a tuple, and the cotangent, drawn from a fixed seed unless given."""
        y, cache = getattr(self, f"{case.op}_forward")(*case.arrays, **case.settings)
        if dy is None:
            dy = np.asarray(np.random.default_rng(1).normal(size=y.shape), dtype=y.dtype)
        return y, as_tuple(getattr(self, f"{case.op}_backward")(dy, cache, needs)), dy


def map_arrays(function, tree, kind=None):
    """Apply `function` to every array in nested tuples, lists and dictionaries, and leave the rest as it is."""
    if isinstance(tree, kind) if kind else hasattr(tree, "dtype") and hasattr(tree, "shape"):
        return function(tree)
    if isinstance(tree, dict):
        return {key: map_arrays(function, value, kind) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        values = [map_arrays(function, value, kind) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)
    return tree


def arrays_in(tree):
    """Every array in nested tuples, lists and dictionaries: what a cache holds."""
    found = []
    map_arrays(found.append, tree)
    return found


def as_tuple(gradients):
    """The gradients of an operation as a tuple, also where there is only one."""
    return gradients if isinstance(gradients, tuple) else (gradients,)


def differentiable(case):
    """The arguments that have a gradient by the contract: floating-point arrays, and optional arrays left out."""
    return [array for array in case.arrays if array is None or array.dtype.kind == "f"]


def relative_error(received, expected):
    """The largest distance between two arrays, relative to the largest element expected."""
    assert np.shape(received) == np.shape(expected), f"shape {np.shape(received)}, expected {np.shape(expected)}"
    distance = float(np.max(np.abs(np.asarray(received) - expected), initial=0.0))
    largest = float(np.max(np.abs(expected), initial=0.0))
    return distance / largest if largest else (0.0 if distance == 0 else float("inf"))
