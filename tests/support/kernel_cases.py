"""Larger arguments for the operations that have a kernel: odd sizes, one row, and rows that fill vector registers."""

import zlib

import numpy as np

from tinyllama.course.cases import Case
from tinyllama.ops import DIFFERENTIABLE, OPS

SHAPES = [(1, 257), (257, 1), (3, 17), (17, 3), (2, 3, 257), (100, 64)]         # (N, D) or (B, T, D)


def ops_with_a_kernel(backend):
    """The operations of which the backend has a version of its own."""
    return [op for op in DIFFERENTIABLE if any(getattr(backend, f"{op}_{direction}") is not OPS[f"{op}_{direction}"]
                                               for direction in ("forward", "backward"))]


def larger_cases(op):
    """Random cases of `op` in float64; the same arrays at every call."""
    rng = np.random.default_rng(zlib.crc32(op.encode()))
    for shape in SHAPES:
        for label, arrays, settings in _MAKERS.get(op, _elementwise)(rng, shape):
            yield Case(op, f"{shape}{label}", arrays, settings)


def _elementwise(rng, shape):
    yield "", (3 * rng.normal(size=shape),), {}


def _scores(rng, shape):
    yield "", (5 * rng.normal(size=shape),), {}
    yield " far from zero", (rng.normal(100.0, 5.0, size=shape),), {}


def _swiglu(rng, shape):
    yield "", (3 * rng.normal(size=(*shape[:-1], 2 * shape[-1])),), {}


def _rmsnorm(rng, shape):
    yield "", (rng.normal(0.3, 2.0, size=shape), rng.normal(1.0, 0.5, size=shape[-1])), {"eps": 1e-3}


def _layernorm(rng, shape):
    weight, bias = rng.normal(1.0, 0.5, size=shape[-1]), rng.normal(size=shape[-1])
    yield "", (rng.normal(0.3, 2.0, size=shape), weight, bias), {"eps": 1e-3}
    yield " far from zero, no bias", (rng.normal(50.0, 2.0, size=shape), weight, None), {"eps": 1e-3}


def _cross_entropy(rng, shape):
    logits, targets = 5 * rng.normal(size=shape), rng.integers(0, shape[-1], size=shape[:-1])
    yield "", (logits,), {"targets": targets}
    targets = np.where(rng.random(shape[:-1]) < 0.3, -100, targets)
    yield " smoothed", (logits + 30,), {"targets": targets, "label_smoothing": 0.1, "divisor": 7}


def _embedding(rng, shape):
    yield "", (rng.integers(0, 5, size=shape[:-1]), rng.normal(size=(5, shape[-1]))), {}


def _rope(rng, shape):
    angles = rng.normal(size=(shape[0], shape[-1]))                                             # (T, D/2)
    for interleaved in (False, True):
        yield f" interleaved={interleaved}", (rng.normal(size=(2, 3, shape[0], 2 * shape[-1])),), {
            "cos": np.cos(angles), "sin": np.sin(angles), "interleaved": interleaved}


def _attention(rng, shape):
    length, head_dim = shape[0], shape[-1] % 60
    yield "", tuple(rng.normal(size=(2, heads, length, head_dim)) for heads in (4, 2, 2)), {"causal": True}


def _dropout(rng, shape):
    yield "", (rng.normal(size=shape),), {"rate": 0.3, "key": (1, 2, 3)}


_MAKERS = {
    "softmax": _scores, "log_softmax": _scores, "swiglu": _swiglu, "rmsnorm": _rmsnorm, "layernorm": _layernorm,
    "cross_entropy": _cross_entropy, "embedding": _embedding, "rope": _rope, "attention": _attention,
    "dropout": _dropout,
}
