"""What tests share: random numbers, the backends that are installed here, and data beside the checkout."""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from on_host import OnHost

from tinyllama.backends import available_backends, load_backend

CACHE = "tinyllama-kernels-"        # how the name of our own folder of compiled kernels begins
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_configure(config):
    """A fresh cache of compiled kernels for each run, so that every run compiles them.

    The first process makes it, before Numba is imported. Each worker of a parallel run has a folder of its own in it:
    two processes that compile one function for different dtypes at the same time may exchange their files. A folder
    that was chosen from outside is used as it is, and stays.
    """
    if "NUMBA_CACHE_DIR" not in os.environ:
        os.environ["NUMBA_CACHE_DIR"] = config.numba_cache = tempfile.mkdtemp(prefix=CACHE)
    elif hasattr(config, "workerinput") and Path(os.environ["NUMBA_CACHE_DIR"]).name.startswith(CACHE):
        os.environ["NUMBA_CACHE_DIR"] += f"/{config.workerinput['workerid']}"


def pytest_unconfigure(config):
    """The process that made the cache removes it."""
    if hasattr(config, "numba_cache"):
        shutil.rmtree(config.numba_cache, ignore_errors=True)
        del os.environ["NUMBA_CACHE_DIR"]


@pytest.fixture
def rng():
    """Random numbers, the same in every run."""
    return np.random.default_rng(0)


@pytest.fixture(params=available_backends())
def backend(request):
    """Every backend that is installed here, one after the other."""
    return load_backend(request.param)


@pytest.fixture
def ops(backend):
    """The operations of every backend, as functions of NumPy arrays."""
    return OnHost(backend)


@pytest.fixture
def shared_data():
    """The folder of models, tokenizers and texts that lies beside the checkout, where there is one."""
    if not SHARED_DATA.is_dir():
        pytest.skip("../shared/data is not there.")
    return SHARED_DATA
