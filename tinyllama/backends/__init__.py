"""The same operations as fast as a device allows. A backend is chosen by name and given to a model."""

import functools
import importlib

from tinyllama.backends.backend import Backend

__all__ = ["Backend", "available_backends", "load_backend"]

# name -> module with is_available() and load(). A new backend is a module, an entry here, and the shared tests passed.
_MODULES = {"numpy": "tinyllama.backends.reference", "numba": "tinyllama.backends.cpu"}


def available_backends():
    """The names of the backends whose libraries are installed here, the readable one first."""
    return [name for name, module in _MODULES.items() if importlib.import_module(module).is_available()]


@functools.cache
def load_backend(name):
    """The backend of that name: "numpy".

    Raises ValueError for a name that is unknown or whose library is not installed.
    """
    if name not in available_backends():
        raise ValueError(f"backend: expected one of {', '.join(map(repr, available_backends()))}, got {name!r}")
    return importlib.import_module(_MODULES[name]).load()
