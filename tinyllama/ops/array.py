"""What the operations need to know about arrays, whichever library made them."""

import sys


def array_namespace(x):
    """The module whose functions work on the array `x`: `numpy`, `cupy`, or one that looks like them.

    NumPy arrays answer the question themselves (the array API standard, `__array_namespace__`). CuPy arrays do not,
    and for them the module of their type is the answer.
    """
    if hasattr(x, "__array_namespace__"):
        return x.__array_namespace__()
    return sys.modules[type(x).__module__.partition(".")[0]]


def wanted(needs, count):
    """`needs` as a tuple of `count` booleans; None means that every gradient is wanted."""
    return (True,) * count if needs is None else needs


def as_rows(x):
    """x as a matrix with one row a vector: (..., D) -> (N, D). One large product is faster than many small ones."""
    return x.reshape(-1, x.shape[-1])


def in_dtype_of(x, number):
    """`number`, so that arithmetic with it keeps the dtype of x: a NumPy integer or array would widen float32."""
    return number.astype(x.dtype) if hasattr(number, "astype") else number


def require_shape(x, shape, name, like):
    """Raise ValueError unless x has that shape: broadcasting would turn a mistake into a wrong number."""
    if x.shape != shape:
        raise ValueError(f"{name}: expected the shape of {like}, {shape}, got {x.shape}")


def require_integers(x, name):
    """Raise TypeError unless the array `x` holds integers. Looks at the dtype alone, so it costs no transfer."""
    if x.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got an array of {x.dtype}")
