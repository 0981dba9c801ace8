"""A GPU without a GPU: arrays with NumPy inside and the refusals of a device library outside.

Code that runs on these arrays, gives NumPy's results and leaves `transfers` untouched has been shown to
    take every array function from the namespace of its arrays, never from NumPy;
    mix no device array with data of the host, in operators, indices or arguments;
    look at no number on the device, which would make a GPU wait;
    call nothing that CuPy is known to lack (`test_cupy_names.py` asks CuPy itself, where it is installed).

This module is the namespace of its arrays, found as `cupy` is: through the module of their type. On two points it is
stricter than CuPy, which hands `np.exp(x)` on to `cupy.exp`, and takes a host array or a list as an index: both hide a
mistake. It shows nothing about speed, nor about the rounding of a real device.
"""

import contextlib
import functools
import operator
import sys
import types
from dataclasses import dataclass

import numpy as np

from tinyllama.backends.backend import Backend
from tinyllama.ops import OPS

NOT_IN_CUPY = {"block", "errstate", "geomspace", "insert", "matvec", "nditer", "spacing", "unstack", "vecdot", "vecmat"}
NOT_ON_DEVICE_ARRAYS = {"ctypes", "data", "device", "flat", "getfield", "resize", "setfield", "setflags"}
DOWNLOADS = {"item", "tolist", "tobytes", "argwhere", "flatnonzero", "nonzero", "unique"}   # data, or a size that is
ARRAYS_IN_CUPY = {"allclose", "array_equal", "array_equiv"}                                 # but booleans in NumPy


@dataclass
class Transfers:
    """How often data crossed from the host to the device and back."""

    uploads: int = 0
    downloads: int = 0

    def reset(self):
        self.uploads = self.downloads = 0


transfers = Transfers()     # since the module was loaded, or since `transfers.reset()`
_counters = [transfers]
_used_names = set()


@contextlib.contextmanager
def counted():
    """A counter of the transfers inside the block alone: `with counted() as transfers: ...`."""
    _counters.append(Transfers())
    try:
        yield _counters[-1]
    finally:
        _counters.pop()


def used_names():
    """The growing set of what code asked for: functions ("exp"), their methods ("add.at"), attributes ("ndarray.T")."""
    return _used_names


class ndarray:
    """An array "on the device": what it holds is reached by functions of this module, or by a transfer."""

    __slots__ = ("_host",)
    __array_ufunc__ = None      # np.exp(x) raises TypeError, and so does an operator between x and a host array
    __hash__ = None

    def __init__(self, host):
        self._host = host

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed: use .get()")

    def __array_function__(self, function, types, args, kwargs):
        raise TypeError(f"numpy.{function.__name__} was given a device array: call the function of its namespace")

    def __getattr__(self, name):
        if name.startswith("_") or name in NOT_ON_DEVICE_ARRAYS or not hasattr(np.ndarray, name):
            raise AttributeError(f"a device array has no attribute {name!r}")
        _used_names.add(f"ndarray.{name}")
        value = getattr(self._host, name)
        return _device_function(f"ndarray.{name}", value) if callable(value) else _wrap(value)

    def __getitem__(self, index):
        index = index if isinstance(index, tuple) else (index,)
        if any(getattr(part, "dtype", None) == np.bool_ for part in index):
            _download("the length of the result")
        if not any(part is Ellipsis for part in index):
            index = (*index, Ellipsis)          # so that NumPy returns a view even of a single element
        return ndarray(self._host[_unwrap(index)])

    def __setitem__(self, index, value):
        self._host[_unwrap(index)] = _host_operand(value)

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __repr__(self):
        return f"device {self.get()!r}"

    def get(self):
        return _download(self._host.copy())


def _give_operators():
    """The operators of CuPy's arrays, which have no `__index__` (range(x) fails) and no `__imatmul__`."""
    def give(name, method):
        setattr(ndarray, f"__{name.strip('_')}__", method)

    for f in (float, int, bool):
        give(f.__name__, lambda x, f=f: _download(f(x._host)))
    o = operator
    for f in (o.neg, o.pos, o.abs, o.invert):
        give(f.__name__, lambda x, f=f: _wrap(f(x._host)))
    for f in (o.lt, o.le, o.eq, o.ne, o.gt, o.ge):
        give(f.__name__, lambda x, other, f=f: _wrap(f(x._host, _host_operand(other))))
    for f in (o.add, o.sub, o.mul, o.truediv, o.floordiv, o.mod, o.pow, o.and_, o.or_, o.xor, o.lshift, o.rshift,
              o.matmul):
        give(f.__name__, lambda x, other, f=f: _wrap(f(x._host, _host_operand(other))))
        give("r" + f.__name__, lambda x, other, f=f: _wrap(f(_host_operand(other), x._host)))
    for f in (o.iadd, o.isub, o.imul, o.itruediv, o.ifloordiv, o.imod, o.ipow, o.iand, o.ior, o.ixor):
        give(f.__name__, lambda x, other, f=f: ndarray(f(x._host, _host_operand(other))))


_give_operators()


def asarray(x, dtype=None, copy=None):
    """A device array from anything array-like. Data of the host is copied, which is counted as an upload."""
    if isinstance(x, ndarray):
        return ndarray(np.asarray(x._host, dtype, copy=copy))
    for counter in _counters:
        counter.uploads += 1
    return ndarray(np.array(x, dtype))


array = functools.partial(asarray, copy=True)
asnumpy = ndarray.get


def __getattr__(name):
    """Every other function is NumPy's, between device arrays; types and constants are NumPy's own, as in CuPy."""
    value = getattr(np, name)
    if name.startswith("_") or name in NOT_IN_CUPY or isinstance(value, types.ModuleType):
        raise AttributeError(f"the device's namespace has no attribute {name!r}")
    _used_names.add(name)
    return value if isinstance(value, type) or not callable(value) else _device_function(name, value)


def backend():
    """The operations of `tinyllama.ops` on this device, for tests of whatever takes a backend."""
    return Backend("strict", sys.modules[__name__], dict(OPS), asarray=asarray, to_numpy=asnumpy,
                   zeros=_device_function("zeros", np.zeros), synchronize=lambda: None, runs_in_threads=False)


def _device_function(name, function):
    def call(*args, **kwargs):
        _used_names.add(name)
        if name.removeprefix("ndarray.") in DOWNLOADS:
            _download("the result, or its size")
        result = function(*_unwrap(args), **_unwrap(kwargs))
        return _wrap(np.asarray(result) if name in ARRAYS_IN_CUPY else result)

    if isinstance(function, np.ufunc):
        call.at = _device_function(f"{name}.at", function.at)
    return call


def _wrap(x):
    if isinstance(x, np.ndarray | np.generic):
        return ndarray(np.asarray(x))       # a NumPy scalar becomes an array of no dimension, as in CuPy
    return type(x)(map(_wrap, x)) if type(x) in (tuple, list) else x


def _unwrap(x):
    if isinstance(x, ndarray):
        return x._host
    if isinstance(x, np.ndarray) or (isinstance(x, list) and not all(isinstance(part, ndarray) for part in x)):
        raise TypeError(f"Unsupported type {type(x)}: its data is on the host, and was to meet a device array")
    if isinstance(x, dict):
        return {key: _unwrap(value) for key, value in x.items()}
    return type(x)(map(_unwrap, x)) if type(x) in (tuple, list) else x


def _host_operand(x):
    if not isinstance(x, ndarray | bool | int | float | complex | np.generic):
        raise TypeError(f"Unsupported type {type(x)}: only device arrays and numbers mix with a device array")
    return _unwrap(x)


def _download(value):
    for counter in _counters:
        counter.downloads += 1
    return value
