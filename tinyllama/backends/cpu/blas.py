"""The matrix product of NumPy's own BLAS, called from inside a kernel.

A product in Python takes the global lock before and after, and where two workers do many small ones, they wait for each
other more than they compute. A kernel that calls BLAS itself takes the lock once. What it calls is the `cblas_sgemm` of
the OpenBLAS in NumPy's wheels, whose name says that its integers have 64 bits; another BLAS is not called this way.
"""

import ctypes
import functools

import numpy as np
import threadpoolctl
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

ROW_MAJOR, NOT_TRANSPOSED, TRANSPOSED = 101, 111, 112       # as cblas.h numbers them


@functools.cache
def product_address(dtype):
    """Where the product of two matrices of that dtype begins in memory; None where there is no BLAS to be called."""
    name = {"float32": "scipy_cblas_sgemm64_", "float64": "scipy_cblas_dgemm64_"}[np.dtype(dtype).name]
    for library in threadpoolctl.threadpool_info():
        if library["user_api"] == "blas":
            function = getattr(ctypes.CDLL(library["filepath"]), name, None)
            if function is not None:
                return ctypes.cast(function, ctypes.c_void_p).value
    return None


def product(address, transpose_a, shape, a, lda, b, ldb, beta, c, ldc):
    """c = a @ b + beta · c, or aᵀ @ b + beta · c.

    shape: (m, n, k) for a: (m, k), or (k, m) where it is transposed, b: (k, n), c: (m, n). a, b, c: flat arrays that
    begin with the first element; lda, ldb, ldc: how many elements lie between two rows. beta: 0 or 1, of the dtype.
    """
    m, n, k = shape
    a = _matrix(a, (k, m) if transpose_a else (m, k), lda)
    c = _matrix(c, (m, n), ldc)
    c[...] = (a.T if transpose_a else a) @ _matrix(b, (k, n), ldb) + (c if beta else 0)


def _matrix(flat, shape, stride):
    return np.lib.stride_tricks.as_strided(flat, shape, (stride * flat.itemsize, flat.itemsize))


@overload(product)
def _compiled_product(address, transpose_a, shape, a, lda, b, ldb, beta, c, ldc):
    def call(address, transpose_a, shape, a, lda, b, ldb, beta, c, ldc):
        m, n, k = shape
        flag = TRANSPOSED if transpose_a else NOT_TRANSPOSED
        _call_gemm(address, np.int32(flag), m, n, k, a, lda, b, ldb, beta, c, ldc)
    return call


@intrinsic
def _call_gemm(typing_context, address, flag, m, n, k, a, lda, b, ldb, beta, c, ldc):
    """cblas_?gemm(RowMajor, flag, NoTrans, m, n, k, 1, a, lda, b, ldb, beta, c, ldc)."""
    def generate(context, builder, signature, arguments):
        address, flag, m, n, k, a, lda, b, ldb, beta, c, ldc = arguments
        number = context.get_value_type(signature.args[9])
        small, large, pointer = ir.IntType(32), ir.IntType(64), number.as_pointer()
        a, b, c = (context.make_array(kind)(context, builder, array).data
                   for kind, array in zip((signature.args[i] for i in (5, 7, 10)), (a, b, c), strict=True))
        kind = ir.FunctionType(ir.VoidType(), [small] * 3 + [large] * 3 + [number, pointer, large, pointer, large,
                                                                          number, pointer, large])
        gemm = builder.inttoptr(address, kind.as_pointer())
        builder.call(gemm, [small(ROW_MAJOR), flag, small(NOT_TRANSPOSED), m, n, k, number(1.0), a, lda, b, ldb, beta,
                            c, ldc])
        return context.get_dummy_value()

    return types.void(address, flag, m, n, k, a, lda, b, ldb, beta, c, ldc), generate
