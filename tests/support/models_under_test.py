"""Small models and layers whose numbers cannot hide a mistake, and the checks that the tests of both share.

Weights are far from zero and norms far from one, no two sizes are equal where a transposed array could pass, tokens
repeat, and the rows of the batch have different numbers of targets.
"""

import functools
import inspect
import zlib

import numpy as np

from tinyllama.backends import load_backend
from tinyllama.gradients import gradcheck
from tinyllama.models import Llama, LlamaConfig
from tinyllama.nn import Layer
from tinyllama.ops import OPS

IDS = np.array([[3, 1, 3, 7, 3, 12, 0], [5, 5, 2, 1, 5, 2, 9], [1, 4, 3, 4, 1, 0, 11]])     # 6, 8 and 10 never occur
TARGETS = np.array([[1, 3, 7, 3, 12, 0, 5], [-100, -100, -100, 5, -100, 9, -100], [4, 3, -100, 1, 0, -100, 2]])
DOCUMENTS = np.array([[0, 0, 0, 0, 1, 1, 1], [0, 1, 1, 2, 2, 2, 2], [4, 4, 4, 4, 4, 4, 4]])
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 0.2, "high_freq_factor": 1.5,
          "original_max_position_embeddings": 8}


def tiny_config(**changes):
    """Grouped queries, two layers, a context of 9 tokens; `changes` to its fields."""
    settings = {"vocab_size": 13, "hidden_size": 16, "intermediate_size": 10, "num_hidden_layers": 2,
                "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 9}
    return LlamaConfig(**settings | changes)


def tiny_model(*, backend="numpy", dtype="float64", workers=1, frozen=(), **changes):
    """A model of `tiny_config` with weights large enough that every part of it matters to the loss."""
    model = Llama(tiny_config(**changes), backend=backend, dtype=dtype, workers=workers, frozen=frozen)
    randomize(model.parameters)
    return model


def randomize(parameters):
    """Fill with random numbers: norms around 1, biases around 0. A name and a shape get the same ones each time."""
    for name, array in parameters.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        if array.ndim == 1:
            array[...] = rng.normal(1.0 if name.endswith("norm.weight") else 0.0, 0.4, array.shape)
        else:
            array[...] = rng.normal(0.0, 0.8 / np.sqrt(array.shape[-1]), array.shape)


def copies(arrays):
    """{name: copy}, for gradients that the next call would overwrite."""
    return {name: array.copy() for name, array in arrays.items()}


def assert_same_gradients(received, expected, tolerance=1e-12):
    """The same names, and the same arrays up to `tolerance` of the largest element of each, or of 0.001."""
    assert list(received) == list(expected)
    for name in expected:
        scale = max(np.max(np.abs(expected[name]), initial=0.0), 1e-3)      # some are zero but for rounding
        np.testing.assert_allclose(received[name], expected[name], rtol=0, atol=tolerance * scale, err_msg=name)


def spying(calls, *names, backend=None):
    """A backend whose functions `names` (all, if none are given) append (name, args, kwargs, result) to `calls`."""
    backend = backend or load_backend("numpy")

    def spy(name):
        function = OPS[name]

        @functools.wraps(function)
        def spied(*args, **kwargs):
            result = function(*args, **kwargs)
            calls.append((name, args, kwargs, result))
            return result
        return spied

    return backend.with_ops(**{name: spy(name) for name in names or OPS})


# ---- layers

class Twice(Layer):
    """The same layer two times in a row, with the same weights: layer(layer(x))."""

    def __init__(self, layer):
        self.layer = layer

    def forward(self, x, *extra):
        x, first = self.layer.forward(x, *extra)
        x, second = self.layer.forward(x, *extra)
        return x, (first, second)

    def backward(self, dy, cache, grads):
        first, second = cache
        return self.layer.backward(self.layer.backward(dy, second, grads), first, grads)


def bind(layer, *, backend="numpy", frozen=(), dtype="float64"):
    """Give a layer random parameters of its own, and return them."""
    backend = load_backend(backend) if isinstance(backend, str) else backend
    parameters = layer.initialize(backend, dtype=dtype, frozen=frozen)
    randomize(parameters)
    return parameters


def as_op(layer, parameters, *extra, without=()):
    """(forward, backward) of a bound layer as `gradcheck` takes them, with the parameters as arguments after x.

    extra: what the layer's forward takes after x. without: parameters that are left as they are.
    """
    names = [name for name in parameters if name not in without]

    def forward(x, *arrays):
        for name, array in zip(names, arrays, strict=True):
            parameters[name][...] = array
        return layer.forward(x, *extra)

    def backward(dy, cache):
        _, grads = parameters.new_gradients()
        dx = layer.backward(dy, cache, grads)
        gradients = tuple(grads[name] for name in names)
        return gradients if dx is None else (dx, *gradients)        # integers, such as ids, have no gradient

    forward.__signature__ = inspect.Signature(
        [inspect.Parameter(name.replace(".", "_"), inspect.Parameter.POSITIONAL_ONLY) for name in ("x", *names)])
    backward.__name__ = f"{type(layer).__name__}.backward"
    return forward, backward


def check_layer(layer, x, *extra, zero=(), tolerance=1e-7):
    """Check the gradients of x and of every parameter by differences. Raises GradientError.

    zero: parameters on which, by theory, the result does not depend. They are moved far, which must change nothing, and
    their gradients must vanish, both to 1e-12.
    """
    parameters = bind(layer)
    start = [parameters[name].copy() for name in parameters if name not in zero]
    forward, backward = as_op(layer, parameters, *extra, without=zero)
    report = gradcheck(forward, backward, x, *start, tolerance=tolerance)

    y, cache = forward(x, *start)
    _, grads = parameters.new_gradients()
    layer.backward(np.random.default_rng(2).normal(size=y.shape), cache, grads)
    for name in zero:
        assert np.max(np.abs(grads[name])) < 1e-12, name
        parameters[name][...] += 1.0 + np.arange(parameters[name].size).reshape(parameters[name].shape) % 3
        np.testing.assert_allclose(layer.forward(x, *extra)[0], y, rtol=0, atol=1e-12, err_msg=name)
    return report


def check_adds(layer, x, *extra):
    """Check that backward adds to what the caller's gradients hold, rather than replacing it. Raises AssertionError."""
    parameters = bind(layer)
    y, cache = layer.forward(x, *extra)
    dy = np.random.default_rng(3).normal(size=y.shape)
    _, once = parameters.new_gradients()
    dx = layer.backward(dy, cache, once)

    buffer, grads = parameters.new_gradients()
    buffer[...] = np.random.default_rng(4).normal(size=buffer.shape)
    before = copies(grads)
    dx_again = layer.backward(dy, cache, grads)
    layer.backward(dy, cache, grads)
    for name in grads:
        np.testing.assert_allclose(grads[name], before[name] + 2 * once[name], rtol=1e-12, atol=1e-12, err_msg=name)
    np.testing.assert_array_equal(dx_again, dx)
