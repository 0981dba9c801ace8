"""What rounding may do to a result: arrays of float64 that carry a bound for the error of the same work in float32.

`Bounded(value, error)` behaves like an array in the readable operations, which say through `array_namespace` what is to
be done with it. The value is computed in float64 and stands for the truth; the error grows, to first order, by what a
float32 computation of the same formula may add:

    any single operation        u · |result|                        u = 2^-24, half of the distance between two numbers
    exp                         a further 3e-7 · exp(x)             what `exponential.py` promises
    a sum of n terms            min(n, 4 sqrt(n)) · u · Σ |term|    the worst case, or four sigma of a random walk
    whatever falls below 2^-126 that number                         where float32 has no more normal numbers

and by what each operation makes of the errors of its arguments. A kernel may order the work differently, or write a
formula in another form, as long as it is no worse than that.
"""

import numpy as np
from on_host import OnHost, as_tuple

from tinyllama.ops import OPS

U = 2.0**-24
DOUBLE = 2.0**-29   # float64 is so much finer than float32, and its exp is no worse
EXPONENTIAL = 3e-7
SMALLEST = 2.0**-126
SLACK = 2.0         # for terms of second order, and for constants that a kernel rounds where the readable one has none


def of_a_sum(count):
    """The relative error that adding `count` numbers may bring."""
    return min(count, 4 * np.sqrt(count)) * U


class Bounded:
    """An array and a bound for the error of each of its elements."""

    __array_ufunc__ = None          # NumPy's arrays leave `array * Bounded` to Bounded

    def __init__(self, value, error=None):
        self.value = np.asarray(value, dtype=np.float64)
        self.error = np.zeros(self.value.shape) if error is None else np.broadcast_to(error, self.value.shape).copy()

    def __array_namespace__(self):
        return NAMESPACE

    shape = property(lambda self: self.value.shape)
    ndim = property(lambda self: self.value.ndim)
    size = property(lambda self: self.value.size)
    dtype = property(lambda self: self.value.dtype)

    def __len__(self):
        return len(self.value)

    def __getitem__(self, index):
        return Bounded(self.value[index], self.error[index])

    def __setitem__(self, index, other):
        other = bounded(other)
        self.value[index], self.error[index] = other.value, other.error

    def reshape(self, *shape):
        return Bounded(self.value.reshape(*shape), self.error.reshape(*shape))

    def swapaxes(self, a, b):
        return Bounded(self.value.swapaxes(a, b), self.error.swapaxes(a, b))

    def __neg__(self):
        return Bounded(-self.value, self.error)

    def __add__(self, other):
        other = bounded(other)
        return rounded(self.value + other.value, self.error + other.error)

    def __sub__(self, other):
        return self + -bounded(other)

    def __mul__(self, other):
        other = bounded(other)
        return rounded(self.value * other.value, _product(self, other, np.multiply))

    def __truediv__(self, other):
        other = bounded(other)
        value = self.value / other.value
        return rounded(value, (self.error + np.abs(value) * other.error) / np.abs(other.value))

    def __matmul__(self, other):
        terms = np.abs(self.value) @ np.abs(other.value)
        return rounded(self.value @ other.value,
                       _product(self, other, np.matmul) + of_a_sum(self.shape[-1]) * terms)

    def __rsub__(self, other):
        return bounded(other) - self

    def __rtruediv__(self, other):
        return bounded(other) / self

    __radd__, __rmul__ = __add__, __mul__

    def __iadd__(self, other):
        return self._become(self + other)

    def __isub__(self, other):
        return self._become(self - other)

    def __imul__(self, other):
        return self._become(self * other)

    def _become(self, other):
        self.value[...], self.error[...] = other.value, other.error
        return self

    def __gt__(self, other):
        return self.value > other


def bounded(x):
    """x with the error it begins with: none for whole numbers and arrays, one rounding for a setting such as eps."""
    if isinstance(x, Bounded):
        return x
    return Bounded(x, U * abs(x) if isinstance(x, float) else None)


def rounded(value, error):
    """The result of one operation, whose arguments brought `error`."""
    value = np.asarray(value)
    return Bounded(value, error + U * np.abs(value) + SMALLEST * (value != 0))


def _product(a, b, product):
    return product(a.error, np.abs(b.value)) + product(np.abs(a.value) + a.error, b.error)


class _Namespace:
    """The functions that the readable operations call, for Bounded; all others are NumPy's."""

    def __getattr__(self, name):
        return getattr(np, name)

    @staticmethod
    def zeros(shape, dtype):
        return Bounded(np.zeros(shape))

    @staticmethod
    def exp(x):
        value, most = np.exp(x.value), np.exp(x.value + x.error)
        return rounded(value, most - value + EXPONENTIAL * most)

    @staticmethod
    def log(x):
        return rounded(np.log(x.value), x.error / x.value)

    @staticmethod
    def tanh(x):
        return rounded(np.tanh(x.value), (1 - np.tanh(x.value)**2) * x.error + EXPONENTIAL)

    @staticmethod
    def sqrt(x):
        root = np.sqrt(x.value)
        return rounded(root, np.sqrt(x.value + x.error) - root)

    @staticmethod
    def maximum(x, number):
        if not isinstance(x, Bounded):
            return np.maximum(x, number)
        return Bounded(np.maximum(x.value, number), x.error)

    @staticmethod
    def max(x, axis, keepdims):
        return Bounded(np.max(x.value, axis, keepdims=keepdims), np.max(x.error, axis, keepdims=keepdims))

    @staticmethod
    def sum(x, axis=None, keepdims=False):
        if not isinstance(x, Bounded):
            return np.sum(x, axis, keepdims=keepdims)
        value = np.sum(x.value, axis, keepdims=keepdims)
        terms = np.sum(np.abs(x.value), axis, keepdims=keepdims)
        return rounded(value, np.sum(x.error, axis, keepdims=keepdims) + of_a_sum(x.size / max(value.size, 1)) * terms)

    @staticmethod
    def mean(x, axis, keepdims):
        return NAMESPACE.sum(x, axis, keepdims) / x.shape[axis]

    @staticmethod
    def where(condition, x, y):
        if not (isinstance(x, Bounded) or isinstance(y, Bounded)):
            return np.where(condition, x, y)
        x, y = (part if isinstance(part, Bounded) else Bounded(part) for part in (x, y))
        return Bounded(np.where(condition, x.value, y.value), np.where(condition, x.error, y.error))

    @staticmethod
    def take_along_axis(x, indices, axis):
        return Bounded(np.take_along_axis(x.value, indices, axis), np.take_along_axis(x.error, indices, axis))

    @staticmethod
    def concatenate(arrays, axis):
        return Bounded(np.concatenate([x.value for x in arrays], axis), np.concatenate([x.error for x in arrays], axis))

    @staticmethod
    def stack(arrays, axis):
        return Bounded(np.stack([x.value for x in arrays], axis), np.stack([x.error for x in arrays], axis))

    class add:
        """`add.at`, the sum over all that goes to the same place."""

        @staticmethod
        def at(target, index, x):
            terms = np.zeros(target.shape)
            np.add.at(target.value, index, x.value)
            np.add.at(target.error, index, x.error)
            np.add.at(terms, index, np.abs(x.value))
            target.error += of_a_sum(len(index)) * terms


NAMESPACE = _Namespace()


def run_bounded(case, dy):
    """The readable pair on Bounded arrays: y and the gradients, those that are not there as None."""
    def exact(x):
        return x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x

    arrays = [Bounded(x) if x is not None and x.dtype.kind == "f" else x for x in case.arrays]
    settings = {name: exact(value) for name, value in case.settings.items()}
    y, cache = OPS[f"{case.op}_forward"](*arrays, **settings)
    return y, as_tuple(OPS[f"{case.op}_backward"](Bounded(dy), cache))


def worst(received, expected):
    """The largest distance of an array from a Bounded one, as a multiple of what rounding may do to it in its dtype."""
    assert received.shape == expected.shape, f"shape {received.shape}, expected {expected.shape}"
    allowed = SLACK * expected.error + U * np.abs(expected.value) + SMALLEST
    if received.dtype == np.float64:
        allowed = allowed * DOUBLE
    distance = np.abs(received.astype(np.float64) - expected.value)
    return float(np.max(np.where(np.isnan(distance), np.inf, distance) / allowed, initial=0.0))


def check_against_readable(backend, case):
    """Raise AssertionError unless every element of the backend's results lies within its bound, in both dtypes."""
    ours = OnHost(backend)
    for dtype in (np.float64, np.float32):
        single_or_double = case.astype(dtype)
        y, gradients, dy = ours.run(single_or_double)
        expected_y, expected = run_bounded(single_or_double, dy)
        for mine, theirs in zip((y, *gradients), (expected_y, *expected), strict=True):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                assert mine.dtype == dtype
                error = worst(np.asarray(mine), theirs)
                assert error <= 1, f"{case.op}, {case.label}: {error:.1f} times the bound in {np.dtype(dtype)}"
