"""What every file format comes down to: a configuration, and tensors by name that are read a few rows at a time."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyllama.backends import Backend, default_backend, load_backend
from tinyllama.backends.threads import memory_bytes
from tinyllama.models import Llama, LlamaConfig
from tinyllama.models.network import LlamaNetwork
from tinyllama.models.quantization import GROUP_SIZE, OnDemand, QuantizedLlama
from tinyllama.nn.quantized_parameters import quantize_matrix

PIECE_BYTES = 2**22     # of the model's dtype: so much of a tensor is converted at a time
MOST_LAYERS = 10_000    # beyond this a configuration is taken for damaged: making its layers alone would fill memory
QUANTIZATIONS = (None, "stored", "int8", "int4")


class Tensor:
    """A tensor of a file, which is read when somebody asks for its rows.

    shape: as the model needs it. kind: the file's name for how its numbers are held, such as "F32" or "BF16".
    rows: something that gives an array of floating point for a slice, or an array of numbers, of the first dimension.
    """

    def __init__(self, rows, shape, kind):
        self.rows, self.shape, self.kind = rows, tuple(shape), kind

    def read(self, rows=slice(None)):
        """Some rows, as an array of floating point."""
        return self.rows[rows]

    def quantized(self):
        """All rows as a `QuantizedWeight` that holds exactly the numbers of the file; None where it holds floats."""
        return None


class SomeRows:
    """Some rows of another tensor, in an order of their own: a part of a fused matrix, or heads that are permuted."""

    def __init__(self, tensor, rows):
        self.tensor, self.rows = tensor, rows           # rows: a range, or an array of integers
        self.shape, self.kind = (len(rows), *tensor.shape[1:]), tensor.kind

    def read(self, rows=slice(None)):
        """Some of these rows, as an array of floating point."""
        chosen = self.rows[rows] if isinstance(rows, slice) else np.asarray(self.rows)[rows]
        if isinstance(chosen, range) and chosen.step > 0:       # a slice is read without looking for single rows
            return self.tensor.read(slice(chosen.start, chosen.stop, chosen.step))
        return self.tensor.read(np.asarray(chosen, dtype=np.int64))

    def quantized(self):
        """All these rows as a `QuantizedWeight`, or None."""
        whole = self.tensor.quantized()
        rows = np.asarray(self.rows)
        return None if whole is None else whole.map(lambda array: array[rows])


class Checkpoint(NamedTuple):
    """A model as it lies in a file or a directory.

    tensors: {name: a `Tensor`, or what has its methods}, by Hugging Face's names, q and k in the half-split pairing.
    """

    path: Path
    config: LlamaConfig
    tensors: dict[str, Any]


def build(checkpoint, *, backend=None, dtype="float32", frozen=(), workers=None, quantization=None, lora=None):
    """The model of a checkpoint; the arguments are those of `load`.

    A few rows are read and converted at a time, so that no second copy of the weights is ever in memory. Raises
    ValueError, before anything is allocated, where the tensors are not those that the configuration describes, or are
    more than the memory of this machine.
    """
    if quantization not in QUANTIZATIONS:
        raise ValueError(f"quantization: expected one of {', '.join(map(repr, QUANTIZATIONS))}, got {quantization!r}")
    if quantization is not None and frozen:
        raise ValueError(f"frozen: expected none with quantization={quantization!r}, because no weight of a quantised "
                         f"model is trained, got {frozen!r}")
    if quantization is not None and lora is not None:
        raise ValueError(f"lora: expected none with quantization={quantization!r}, because a quantised model is not "
                         f"trained, got {lora}")
    check_tensors(checkpoint)
    config = checkpoint.config
    if quantization is not None:
        return _build_quantized(checkpoint, backend, np.dtype(dtype), workers, quantization)
    _check_memory(checkpoint, np.dtype(dtype).itemsize)
    model = Llama(config, backend=backend, dtype=dtype, seed=None, frozen=frozen, workers=workers, lora=lora)
    for name in expected_shapes(config):
        parameter, tensor = model.parameters[name], checkpoint.tensors[name]
        for rows in pieces(parameter.shape, model.dtype.itemsize):
            parameter[rows] = model.backend.asarray(tensor.read(rows).astype(model.dtype, copy=False))
    return model


def _build_quantized(checkpoint, backend, dtype, workers, quantization):
    backend = backend if isinstance(backend, Backend) else load_backend(backend or default_backend())
    bits, group_size = {"int8": (8, None), "int4": (4, GROUP_SIZE), "stored": (None, None)}[quantization]

    def weight(name):
        tensor = checkpoint.tensors[name]

        def read(rows):
            return backend.asarray(tensor.read(rows).astype(dtype, copy=False))

        if len(tensor.shape) == 1:
            return read(slice(None))
        if bits is None:
            stored = tensor.quantized()
            return read(slice(None)) if stored is None else stored.map(backend.asarray)
        return quantize_matrix(name, read, tensor.shape, bits=bits, group_size=group_size, zeros=backend.zeros)

    try:
        return QuantizedLlama(checkpoint.config, OnDemand(weight), backend=backend, dtype=dtype, workers=workers)
    except ValueError as error:
        raise ValueError(f"{checkpoint.path}: {error}") from error


def _check_memory(checkpoint, itemsize):
    """Raise ValueError where the weights, and the table of sinusoidal positions, are more than the machine's memory."""
    config = checkpoint.config
    needed = itemsize * sum(math.prod(shape) for shape in expected_shapes(config).values())
    if config.positions == "sinusoidal":
        needed += 3 * 8 * config.max_position_embeddings * config.hidden_size       # computed in float64
    if needed > memory_bytes():
        raise ValueError(f"{checkpoint.path}: expected a model that fits into the memory of this machine, "
                         f"{memory_bytes() / 1e9:.1f} GB, got one that needs {needed / 1e9:.1f} GB")


def expected_shapes(config):
    """{name: shape} of the parameters of a model."""
    shapes = {}
    for declaration in LlamaNetwork(config, backend=None, dtype=np.dtype("float32")).declarations():
        for name, rows in declaration.parts or [(declaration.name, declaration.shape[0])]:
            shapes[name] = (rows, *declaration.shape[1:])
    return shapes


def check_layers(checkpoint):
    """Raise ValueError where the configuration has more layers than the weights could have: to be called first.

    Whoever lists the layers of a model makes an object of each, and a damaged file may name any number.
    """
    config, count = checkpoint.config, len(checkpoint.tensors)
    if config.num_hidden_layers > MOST_LAYERS or config.num_unique_layers > count:
        raise ValueError(f"{checkpoint.path}: expected the number of layers in the configuration to be that of the "
                         f"weights, which are {count} tensors, got num_hidden_layers={config.num_hidden_layers}")


def check_tensors(checkpoint):
    """Raise ValueError unless the tensors have the expected names and shapes, and a tied head is the embedding."""
    check_layers(checkpoint)
    config, tensors, problems = checkpoint.config, dict(checkpoint.tensors), []
    expected = expected_shapes(config)
    if config.tie_word_embeddings and "lm_head.weight" in tensors:
        head, embedding = tensors.pop("lm_head.weight"), tensors.get("model.embed_tokens.weight")
        is_whole = embedding is not None and embedding.shape == expected["model.embed_tokens.weight"]
        if is_whole and not _are_equal(head, embedding):
            problems.append("lm_head.weight: expected the same as model.embed_tokens.weight, because "
                            "tie_word_embeddings is true, got other values")
    problems += [f"{name}: expected the shape {shape}, got no such tensor"
                 for name, shape in expected.items() if name not in tensors]
    problems += [f"{name}: expected no such tensor, got one of the shape {tensor.shape}"
                 for name, tensor in tensors.items() if name not in expected]
    problems += [f"{name}: expected the shape {shape}, got {tensors[name].shape}"
                 for name, shape in expected.items() if name in tensors and tensors[name].shape != shape]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise ValueError(f"{checkpoint.path}: the weights are not those that its configuration describes: {shown}")


def _are_equal(one, other):
    return one.shape == other.shape and all(np.array_equal(one.read(rows), other.read(rows))
                                            for rows in pieces(one.shape, 4))


def pieces(shape, itemsize):
    """Slices of the first dimension, of about PIECE_BYTES each."""
    height = max(1, PIECE_BYTES // (max(1, math.prod(shape[1:])) * itemsize))
    return [slice(start, min(start + height, shape[0])) for start in range(0, shape[0], height)]
