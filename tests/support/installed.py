"""Files of real models that lie in packages of the package index, found without importing them."""

import importlib.util
from pathlib import Path

import pytest


def file_of(package, pattern):
    """The first file of an installed package that the pattern matches; skips where the package is not there."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"The package {package} is not installed.")
    return next(Path(spec.submodule_search_locations[0]).rglob(pattern))
