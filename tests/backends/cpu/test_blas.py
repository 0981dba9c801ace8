"""NumPy's matrix product, called from compiled code."""

import numba
import numpy as np
import pytest

from tinyllama.backends.cpu import blas
from tinyllama.backends.cpu.blas import product, product_address

compiled = numba.njit(lambda *arguments: product(*arguments))


@pytest.mark.parametrize("function", [compiled, product], ids=["compiled", "plain"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("beta", [0, 1])
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("m, n, k", [(1, 1, 1), (2, 3, 4), (17, 5, 33), (64, 130, 48)])
def test_it_multiplies_blocks_of_larger_matrices(rng, function, dtype, beta, transpose, m, n, k):
    if product_address(dtype) is None:
        pytest.skip("NumPy's BLAS is none that a kernel can call.")
    a = rng.normal(size=(k, m + 2) if transpose else (m, k + 2)).astype(dtype)
    b, c = rng.normal(size=(k, n + 3)).astype(dtype), rng.normal(size=(m, n + 1)).astype(dtype)
    left = a[:, :m].T if transpose else a[:, :k]
    expected = c.copy()
    expected[:, :n] = left @ b[:, :n] + beta * c[:, :n]
    function(product_address(dtype), transpose, (m, n, k), a.reshape(-1), a.shape[1], b.reshape(-1), n + 3,
             dtype(beta), c.reshape(-1), n + 1)
    np.testing.assert_allclose(c, expected, rtol=0, atol=8 * k * np.finfo(dtype).eps * np.abs(expected).max())
    np.testing.assert_array_equal(c[:, n:], expected[:, n:])        # what lies between the rows is left alone


def test_where_there_is_no_such_blas_there_is_no_address(monkeypatch):
    monkeypatch.setattr(blas.threadpoolctl, "threadpool_info", lambda: [
        {"user_api": "blas", "filepath": None}, {"user_api": "openmp", "filepath": None}])
    assert product_address.__wrapped__("float32") is None           # the program itself, which has no such function
