"""Which backend computes where none is named, and what happens where Numba is missing or broken."""

import numpy as np
import pytest

import tinyllama as tl
from tinyllama import backends
from tinyllama.backends import BackendWarning, cpu


@pytest.fixture
def uncached(monkeypatch):
    """The functions of `tinyllama.backends` as in a new process."""
    monkeypatch.setattr(backends, "load_backend", backends.load_backend.__wrapped__)
    monkeypatch.setattr(backends, "default_backend", backends.default_backend.__wrapped__)
    return backends


def test_numba_is_the_default_where_it_works(uncached):
    assert uncached.default_backend() == "numba"
    config = tl.LlamaConfig(vocab_size=7, hidden_size=4, intermediate_size=6, num_hidden_layers=1,
                            num_attention_heads=2)
    assert tl.Llama(config).backend.name == "numba"
    assert tl.Llama(config, backend="numpy").backend.name == "numpy"


def test_without_numba_numpy_computes_and_says_so(uncached, monkeypatch):
    monkeypatch.setattr(cpu, "is_available", lambda: False)
    with pytest.warns(BackendWarning, match=r"^the backend 'numba' cannot be used \(backend: expected one of 'numpy', "
                                            r"got 'numba', which is not installed\); 'numpy' computes instead"):
        assert uncached.default_backend() == "numpy"
    assert uncached.available_backends() == ["numpy"]


@pytest.mark.parametrize("error", [ImportError("Numba needs another NumPy"), OSError("no LLVM"), ValueError("bad")])
def test_where_numba_fails_numpy_computes_and_says_why(uncached, monkeypatch, error):
    from tinyllama.backends.cpu import compiling

    def fail():
        raise error

    monkeypatch.setattr(compiling, "check_the_compiler", fail)
    with pytest.warns(BackendWarning, match=f"{type(error).__name__}: {error}"):
        assert uncached.default_backend() == "numpy"


def test_asked_for_by_name_a_numba_that_fails_is_an_error(uncached, monkeypatch):
    from tinyllama.backends.cpu import compiling
    monkeypatch.setattr(compiling, "check_the_compiler", lambda: 1 / 0)
    with pytest.raises(RuntimeError, match=r"^numba: expected an installation that works, got ZeroDivisionError"):
        uncached.load_backend("numba")
    monkeypatch.setattr(cpu, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"^backend: expected one of 'numpy', got 'numba', which is not installed$"):
        uncached.load_backend("numba")


def test_a_backend_without_kernels_has_nothing_to_compile():
    assert list(tl.load_backend("numpy").compile_kernels(np.float32)) == []
    assert list(tl.load_backend("numba").with_ops(relu_forward=abs).compile_kernels("float64"))[-1][0] > 0
