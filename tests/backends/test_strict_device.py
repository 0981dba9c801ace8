"""The stand-in for a GPU refuses what a GPU library refuses, and counts what it lets through."""

import operator

import numpy as np
import pytest
import strict_device
from strict_device import Transfers, counted

from tinyllama.ops.array import array_namespace


@pytest.fixture
def host(rng):
    return rng.normal(size=(2, 3))


@pytest.fixture
def x(host):
    return strict_device.asarray(host)


def assign(array, index, value):
    array[index] = value


REFUSED = {
    "a ufunc of NumPy": lambda x, host: np.exp(x),
    "a ufunc of NumPy with both": lambda x, host: np.maximum(host, x),
    "a ufunc of NumPy that writes to the device": lambda x, host: np.add(host, 1, out=x),
    "a function of NumPy": lambda x, host: np.sum(x),
    "a function of NumPy with a list": lambda x, host: np.concatenate([x, x]),
    "a function of NumPy that only looks at the shape": lambda x, host: np.zeros_like(x),
    "a function of a submodule of NumPy": lambda x, host: np.linalg.norm(x),
    "implicit conversion": lambda x, host: np.asarray(x),
    "implicit conversion in a list": lambda x, host: np.array([x, x]),
    "device + host": lambda x, host: x + host,
    "host + device": lambda x, host: host + x,
    "host @ device": lambda x, host: host.T @ x,
    "device @ host": lambda x, host: x @ host.T,
    "host == device": lambda x, host: host == x,
    "device == host": lambda x, host: x == host,
    "device += host": lambda x, host: operator.iadd(x, host),
    "host += device": lambda x, host: operator.iadd(host, x),
    "device + list": lambda x, host: x[0] + [1.0, 2.0, 3.0],
    "host[device]": lambda x, host: host[strict_device.arange(2)],
    "host[...] = device": lambda x, host: assign(host, ..., x),
    "device[host]": lambda x, host: x[np.array([0, 1])],
    "device[:, host]": lambda x, host: x[:, np.array([0, 1])],
    "device[list]": lambda x, host: x[[0, 1]],
    "device[...] = host": lambda x, host: assign(x, ..., host),
    "device[...] = list": lambda x, host: assign(x, 0, [1.0, 2.0, 3.0]),
    "device[host] = number": lambda x, host: assign(x, host > 0, 0.0),
    "a function of the device with a host array": lambda x, host: strict_device.maximum(x, host),
    "a function of the device with a host array in a list": lambda x, host: strict_device.concatenate([x, host]),
    "a function of the device with a host array by name": lambda x, host: strict_device.sum(x, where=host > 0),
    "a function of the device with a list of numbers": lambda x, host: strict_device.sum([1.0, 2.0]),
    "a method with a host array": lambda x, host: x.dot(host.T),
    "add.at with a host index": lambda x, host: strict_device.add.at(x, np.array([0]), 1.0),
    "range(device)": lambda x, host: range(strict_device.asarray(3)),
    "device[:device]": lambda x, host: x[:strict_device.asarray(1)],
    "a device array as a key": lambda x, host: {x: 1},
}


@pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED)
def test_it_refuses(x, host, refused):
    before = host.copy()
    with pytest.raises(TypeError):
        refused(x, host)
    np.testing.assert_array_equal(host, before)
    np.testing.assert_array_equal(x.get(), before)


@pytest.mark.parametrize("name", ["errstate", "vecdot", "matvec", "insert", "block", "nditer", "random", "linalg",
                                  "no_such_function", "__array_namespace_info__"])
def test_its_namespace_lacks_what_cupy_lacks_and_what_no_operation_needs(name):
    assert not hasattr(strict_device, name)


@pytest.mark.parametrize("name", ["ctypes", "data", "flat", "device", "__array_namespace__", "__array_interface__",
                                  "__index__", "no_such_method"])
def test_its_arrays_lack_what_those_of_cupy_lack_and_what_would_leak(x, name):
    assert not hasattr(x, name)


def test_its_namespace_is_found_by_the_type_of_its_arrays(x):
    assert array_namespace(x) is strict_device


def test_results_are_numpys(x, host):
    column = strict_device.asarray(host[:, :1])
    for received, expected in (
            (x + 1, host + 1), (2 - x, 2 - host), (x @ x.T, host @ host.T), (-x, -host), (abs(x), abs(host)),
            (x / column, host / host[:, :1]), (x**2, host**2), (x > column, host > host[:, :1]),
            (~(x > 0) | (x < 1), ~(host > 0) | (host < 1)), (np.float64(2) * x, 2 * host),
            (strict_device.exp(x), np.exp(host)), (strict_device.sum(x, axis=-1), np.sum(host, axis=-1)),
            (strict_device.stack([x, x], axis=1), np.stack([host, host], axis=1)), (x.reshape(-1), host.reshape(-1)),
            (x.sum(axis=0), host.sum(axis=0)), (x.swapaxes(0, 1), host.T), (x.astype(np.float32), np.float32(host)),
            (strict_device.where(x > 0, x, 0), np.where(host > 0, host, 0)), (x[1, ::2], host[1, ::2]),
            (x[strict_device.arange(2), strict_device.asarray([2, 0])], host[[0, 1], [2, 0]])):
        np.testing.assert_array_equal(received.get(), expected)
        assert received.dtype == expected.dtype


def test_a_single_number_stays_on_the_device(x, host):
    for number in (x[0, 1], x.sum(), strict_device.max(x), x[0, 1] * 2, next(iter(x[0])), strict_device.any(x > 0),
                   strict_device.array_equal(x, x)):
        assert isinstance(number, strict_device.ndarray)
        assert number.shape == ()


def test_shapes_and_dtypes_are_known_to_the_host(x):
    with counted() as transfers:
        assert (x.shape, x.ndim, x.size, len(x), x.dtype, x.T.shape) == ((2, 3), 2, 6, 2, np.float64, (3, 2))
        assert strict_device.finfo(x.dtype).max > 1e300
    assert transfers == Transfers(0, 0)


def test_views_share_memory(x):
    x[0] = 1.0
    x[1][:2] = 2.0
    x.T[2] += 3.0
    x.reshape(-1)[0] = 7.0
    x[1, 2] -= x[1, 2]
    number = x[1, 1]            # of no dimension, and yet a view: as in CuPy, but not as in NumPy
    number += 5
    np.testing.assert_array_equal(x.get(), [[7, 1, 4], [2, 7, 0]])


@pytest.mark.parametrize(("update", "expected"), [
    (operator.iadd, 6), (operator.isub, 2), (operator.imul, 8), (operator.itruediv, 2), (operator.ifloordiv, 2),
    (operator.imod, 0), (operator.ipow, 16)])
def test_updates_in_place_are_seen_through_every_name(update, expected):
    x = strict_device.full((2, 2), 4.0)
    view = x[0]
    update(view, 2)
    np.testing.assert_array_equal(x.get(), [[expected, expected], [4, 4]])


def test_updates_by_index_and_add_at():
    x = strict_device.zeros((4, 2))
    x[...] -= 1.0
    x[strict_device.asarray([3, 3]), strict_device.asarray([0, 1])] += strict_device.asarray([10.0, 20.0])
    strict_device.add.at(x, strict_device.asarray([0, 0, 2]), strict_device.ones((3, 2)))
    x[x == -1.0] = 0.5
    np.testing.assert_array_equal(x.get(), [[1, 1], [0.5, 0.5], [0, 0], [9, 19]])


DOWNLOADS = {
    "float": lambda x: float(x[0, 0]), "int": lambda x: int(x[0, 0]), "bool": lambda x: bool(x[0, 0]),
    "item": lambda x: x[0, 0].item(), "item of an index": lambda x: x.item(0, 0), "tolist": lambda x: x.tolist(),
    "get": lambda x: x.get(), "asnumpy": strict_device.asnumpy, "if": lambda x: 1 if x[0, 0] > 0 else 0,
    "max of Python": lambda x: max(x[0, 0], x[0, 1]), "print": lambda x: str(x), "nonzero": strict_device.nonzero,
    "a selection by booleans": lambda x: x[x > 0], "unique": strict_device.unique, "tobytes": lambda x: x.tobytes(),
}


@pytest.mark.parametrize("download", DOWNLOADS.values(), ids=DOWNLOADS)
def test_a_look_at_a_number_is_a_download(x, download):
    with counted() as transfers:
        result = download(x)
    assert transfers == Transfers(uploads=0, downloads=1)
    assert result is not None


def test_reading_numbers_one_by_one_is_a_download_each(x):
    with counted() as transfers:
        numbers = [float(number) for row in x for number in row]
    assert transfers == Transfers(uploads=0, downloads=6)
    assert numbers == x.get().reshape(-1).tolist()


def test_downloads_have_the_right_value(x, host):
    assert float(x[0, 1]) == x[0, 1].item() == x.tolist()[0][1] == host[0, 1]
    assert int(strict_device.asarray(3.0)) == 3
    assert bool(strict_device.asarray(0.0)) is False
    copy = x.get()
    copy[...] = 0
    np.testing.assert_array_equal(x.get(), host)        # what was fetched is a copy


@pytest.mark.parametrize("upload", [strict_device.asarray, strict_device.array])
@pytest.mark.parametrize("data", [np.ones(3), [1.0, 2.0], 3.0], ids=["array", "list", "number"])
def test_data_of_the_host_is_an_upload_and_a_copy(upload, data):
    with counted() as transfers:
        x = upload(data, dtype=np.float32)
    assert transfers == Transfers(uploads=1, downloads=0)
    assert x.dtype == np.float32
    x += 1
    np.testing.assert_array_equal(x.get(), np.asarray(data) + 1)


def test_what_is_made_or_stays_on_the_device_is_no_transfer(x):
    with counted() as transfers:
        made = [strict_device.arange(3), strict_device.zeros((2, 3)), strict_device.ones(2), strict_device.empty(2),
                strict_device.full((2, 3), 0.5), strict_device.zeros_like(x), strict_device.asarray(x), x.copy()]
        x[0] = 1.0
        x *= 2.0
    assert all(isinstance(array, strict_device.ndarray) for array in made)
    assert transfers == Transfers(0, 0)
    strict_device.array(x)[...] = 0
    assert strict_device.any(x != 0)                    # `array` copies


def test_counters_nest_and_can_be_reset(x):
    strict_device.transfers.reset()
    with counted() as outer:
        x.get()
        with counted() as inner:
            strict_device.asarray([1.0])
        x.get()
    x.get()
    assert (outer, inner, strict_device.transfers) == (Transfers(1, 2), Transfers(1, 0), Transfers(1, 3))
    strict_device.transfers.reset()
    assert strict_device.transfers == Transfers(0, 0)


def test_it_records_what_was_asked_for(x):
    strict_device.used_names().clear()
    strict_device.add.at(x, strict_device.zeros(1, dtype=strict_device.int64), 1.0)
    _ = x.reshape(-1).shape
    assert strict_device.used_names() == {"add", "add.at", "zeros", "int64", "ndarray.reshape", "ndarray.shape"}


def test_its_backend_has_every_operation_and_transfers_in_the_open():
    backend = strict_device.backend()
    with counted() as transfers:
        x = backend.asarray(np.ones((2, 3)), dtype=np.float32)
        y, _ = backend.softmax_forward(x)
        buffer = backend.zeros(4, np.float32)
        backend.synchronize()
    assert transfers == Transfers(uploads=1, downloads=0)
    np.testing.assert_allclose(backend.to_numpy(y), np.full((2, 3), 1 / 3), rtol=1e-6)
    assert (backend.name, backend.xp, buffer.shape, buffer.dtype) == ("strict", strict_device, (4,), np.float32)


LEAKS = {
    "a function of NumPy": lambda x: np.maximum(x, 0),
    "a table made by NumPy": lambda x: x * np.ones(3),
    "a loop over a number": lambda x: [i for i in range(x[0, 0])],
}


@pytest.mark.parametrize("relu_forward", LEAKS.values(), ids=LEAKS)
def test_an_operation_that_leaks_is_found(x, relu_forward):
    backend = strict_device.backend().with_ops(relu_forward=relu_forward)
    with pytest.raises(TypeError):
        backend.relu_forward(x)
