"""What tests share: random numbers, the backends that are installed here, and data beside the checkout."""

from pathlib import Path

import numpy as np
import pytest
from on_host import OnHost

from tinyllama.backends import available_backends, load_backend

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


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
