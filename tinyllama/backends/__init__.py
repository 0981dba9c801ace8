"""The same operations as fast as a device allows. A backend is chosen by name and given to a model."""

import functools
import importlib
import warnings

from tinyllama.backends.backend import Backend

__all__ = ["Backend", "BackendWarning", "available_backends", "default_backend", "load_backend"]

# name -> module with is_available() and load(). A new backend is a module, an entry here, and the shared tests passed.
_MODULES = {"numpy": "tinyllama.backends.reference", "numba": "tinyllama.backends.cpu"}


class BackendWarning(UserWarning):
    """A slower backend is used than the one that was meant to be there."""


def available_backends():
    """The names of the backends whose libraries are installed here, the readable one first."""
    return [name for name, module in _MODULES.items() if importlib.import_module(module).is_available()]


@functools.cache
def load_backend(name):
    """The backend of that name: "numpy" or "numba".

    Raises ValueError for a name that is unknown or whose library is not installed, RuntimeError where the library does
    not work.
    """
    if name not in available_backends():
        expected = ", ".join(map(repr, available_backends()))
        missing = ", which is not installed" if name in _MODULES else ""
        raise ValueError(f"backend: expected one of {expected}, got {name!r}{missing}")
    return importlib.import_module(_MODULES[name]).load()


@functools.cache
def default_backend():
    """The name of the backend that computes where none is named: "numba", or "numpy" where Numba cannot be used.

    That it cannot is said once, in a `BackendWarning`.
    """
    try:
        load_backend("numba")
    except (ValueError, RuntimeError) as error:
        warnings.warn(f"the backend 'numba' cannot be used ({error}); 'numpy' computes instead, which is slower",
                      BackendWarning, stacklevel=2)
        return "numpy"
    return "numba"
