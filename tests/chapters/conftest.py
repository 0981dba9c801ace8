"""The builder of the chapters, which is a script and no part of the package."""

import importlib.util
import sys
from pathlib import Path

import pytest

CHAPTERS = Path(__file__).parents[2] / "chapters"

for library in ("jupytext", "nbclient", "ipykernel"):       # the extra "dev"
    pytest.importorskip(library)


@pytest.fixture(scope="session")
def builder():
    """chapters/build.py as a module."""
    spec = importlib.util.spec_from_file_location("chapters_build", CHAPTERS / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
