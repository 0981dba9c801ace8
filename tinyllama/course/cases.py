"""Arguments for every operation, small enough to check every derivative and chosen so that no mistake can hide.

No two sizes are equal where a transposed array could pass, tokens repeat, weights are neither zero nor one, targets are
ignored here and there, and the rows of a batch have different lengths.
"""

import zlib
from typing import NamedTuple

import numpy as np

from tinyllama.ops import DIFFERENTIABLE
from tinyllama.ops.rope import rope_frequencies


class Case(NamedTuple):
    """The arguments of one call: NAME_forward(*arrays, **settings)."""

    op: str
    label: str
    arrays: tuple
    settings: dict

    def astype(self, dtype):
        """The same case with every floating-point array in `dtype`."""
        def convert(value):
            return value.astype(dtype) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value
        settings = {name: convert(value) for name, value in self.settings.items()}
        return self._replace(arrays=tuple(map(convert, self.arrays)), settings=settings)


def cases(op=None):
    """All cases of the operation `op`, or of every operation, in float64; the same arrays at every call.

    Raises ValueError for a name that is no differentiable operation.
    """
    if op is None:
        return [case for name in DIFFERENTIABLE for case in cases(name)]
    if op not in _MAKERS:
        raise ValueError(f"op: expected one of {', '.join(_MAKERS)}, got {op!r}")
    rng = np.random.default_rng(zlib.crc32(op.encode()))
    return [Case(op, label, arrays, settings) for label, arrays, settings in _MAKERS[op](rng)]


def _embedding(rng):
    ids = np.array([[2, 0, 2], [5, 2, 3]])
    yield "a token three times, two never", (ids, rng.normal(size=(6, 4))), {}
    yield "one row", (ids[0], rng.normal(size=(6, 4))), {}


def _linear(rng):
    x, weight, bias = rng.normal(size=(2, 3, 4)), rng.normal(size=(5, 4)), rng.normal(size=5)
    yield "with bias", (x, weight, bias), {}
    yield "without bias", (x, weight, None), {}
    yield "a plain matrix", (rng.normal(size=(3, 4)), weight, bias), {}


def _elementwise(rng):
    yield "(2, 3, 4)", (_away_from_zero(rng.normal(size=(2, 3, 4))),), {}


def _scores(rng):
    yield "(2, 3, 4)", (rng.normal(size=(2, 3, 4)),), {}
    yield "one row far from zero", (100 + rng.normal(size=(1, 5)),), {}


def _swiglu(rng):
    yield "(2, 3, 2·4)", (rng.normal(size=(2, 3, 8)),), {}


def _rmsnorm(rng):
    yield "(2, 3, 4)", (rng.normal(size=(2, 3, 4)), rng.normal(1.0, 0.5, size=4)), {}
    yield "a large eps", (rng.normal(size=(3, 5)), rng.normal(1.0, 0.5, size=5)), {"eps": 0.3}


def _layernorm(rng):
    x, weight, bias = rng.normal(0.7, 1.0, size=(2, 3, 4)), rng.normal(1.0, 0.5, size=4), rng.normal(size=4)
    yield "with bias", (x, weight, bias), {}
    yield "without bias, a large eps", (x, weight, None), {"eps": 0.3}
    yield "a plain matrix", (rng.normal(0.7, 1.0, size=(3, 4)), weight, bias), {}


def _rope(rng):
    tables = [("plain", None), ("linear", {"rope_type": "linear", "factor": 2.0}),
              ("llama3", {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                          "original_max_position_embeddings": 32})]
    for scaling_name, scaling in tables:
        angles = np.outer(np.arange(1, 5), rope_frequencies(6, theta=100.0, scaling=scaling))    # (T, D/2)
        for pairing in ("half-split", "interleaved"):
            settings = {"cos": np.cos(angles), "sin": np.sin(angles), "interleaved": pairing == "interleaved"}
            yield f"{pairing}, {scaling_name}", (rng.normal(size=(2, 3, 4, 6)),), settings
    angles = np.array([[0, 1, 2, 3], [5, 6, 7, 8]])[:, None, :, None] * np.array(rope_frequencies(6))  # (B, 1, T, D/2)
    yield "each row at positions of its own", (rng.normal(size=(2, 3, 4, 6)),), {
        "cos": np.cos(angles), "sin": np.sin(angles)}


def _cross_entropy(rng):
    logits = rng.normal(size=(2, 3, 5))
    targets = np.array([[4, -100, 4], [0, 2, -100]])
    yield "ignored targets", (logits,), {"targets": targets}
    yield "label smoothing", (logits,), {"targets": targets, "label_smoothing": 0.2}
    yield "the divisor of a larger batch", (logits,), {"targets": targets, "divisor": 11}
    yield "another ignore_index", (logits,), {"targets": targets % 5, "ignore_index": 4}
    yield "a plain matrix", (rng.normal(size=(4, 5)),), {"targets": np.array([4, -100, 0, 4])}


def _mse(rng):
    yield "(2, 3)", (rng.normal(size=(2, 3)),), {"targets": rng.normal(size=(2, 3))}
    yield "the divisor of a larger batch", (rng.normal(size=4),), {"targets": rng.normal(size=4), "divisor": 11}


def _binary_cross_entropy(rng):
    yield "soft targets", (3 * rng.normal(size=(2, 3)),), {"targets": rng.random((2, 3))}
    yes_or_no = np.array([0.0, 1.0, 1.0, 0.0])
    yield "the divisor of a larger batch", (rng.normal(size=4),), {"targets": yes_or_no, "divisor": 11}


def _attention(rng):
    def draw(heads, key_heads, queries, keys, head_dim=4, value_dim=4):
        return (rng.normal(size=(2, heads, queries, head_dim)), rng.normal(size=(2, key_heads, keys, head_dim)),
                rng.normal(size=(2, key_heads, keys, value_dim)))

    documents = np.array([[0, 0, 0, 1, 1], [0, 1, 1, 1, 2]])
    yield "every key visible", draw(3, 3, 5, 5), {}
    yield "causal", draw(3, 3, 5, 5), {"causal": True}
    yield "grouped queries", draw(6, 2, 5, 5), {"causal": True}
    yield "one key head", draw(3, 1, 5, 5), {"causal": True}
    yield "cross-attention", draw(4, 2, 3, 5, value_dim=3), {"key_length": np.array([5, 2])}
    yield "continuing a cache", draw(4, 2, 3, 7), {
        "causal": True, "query_start": np.array([4, 2]), "key_length": np.array([7, 5])}
    yield "sliding window", draw(4, 2, 5, 5), {"causal": True, "window": 2}
    yield "packed documents", draw(4, 2, 5, 5), {
        "causal": True, "query_document": documents, "key_document": documents}
    yield "queries that see nothing", draw(4, 2, 3, 5), {
        "causal": True, "query_start": np.array([0, 3]), "key_length": np.array([4, 0])}
    yield "another scale", draw(3, 3, 3, 5), {"scale": 0.9}
    yield "one start for all rows", draw(4, 2, 3, 7), {"causal": True, "query_start": 3, "key_length": 6}
    yield "a window over a cache", draw(4, 2, 3, 7), {
        "causal": True, "window": 3, "query_start": np.array([4, 2]), "key_length": np.array([7, 5])}


def _attention_tiled(rng):
    for label, arrays, settings in _attention(rng):
        yield label, arrays, {**settings, "tile": 2}


def _dropout(rng):
    yield "rate 0.4", (rng.normal(size=(3, 4, 5)),), {"rate": 0.4, "key": 0x0123456789ABCDEF}
    yield "the later rows of a batch", (rng.normal(size=(3, 4)),), {"rate": 0.4, "key": 77, "first_row": 5}


_MAKERS = {
    "embedding": _embedding, "linear": _linear, "softmax": _scores, "log_softmax": _scores,
    "cross_entropy": _cross_entropy, "mse": _mse, "sigmoid": _elementwise,
    "binary_cross_entropy": _binary_cross_entropy, "relu": _elementwise, "gelu": _elementwise, "silu": _elementwise,
    "swiglu": _swiglu, "rmsnorm": _rmsnorm, "layernorm": _layernorm, "rope": _rope, "attention": _attention,
    "attention_tiled": _attention_tiled, "dropout": _dropout,
}


def _away_from_zero(x, distance=0.1):
    """ReLU has no derivative at zero: keep every element at least `distance` away from it."""
    return x + distance * np.sign(x)
