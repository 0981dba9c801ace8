"""llama2.c's files, model.bin: a few sizes, then every weight, one kind of tensor after another.

    version 0   seven int32: hidden_size, intermediate_size, layers, heads, key-value heads, vocab_size, context;
                a negative vocab_size says that the head has weights of its own. Then float32.
    version 1   "ak42" as a number, the version, the seven sizes, a byte that is 1 where the head is the embedding,
                zeros up to 256 bytes. Then float32.
    version 2   the same with the size of a group after that byte. Norms in float32; of every other tensor first its
                numbers, int8, then a float32 scale for each group of them, counted through the whole tensor.

All is little-endian. What the files do not say is the same for all of them: RMSNorm with 1e-5, SwiGLU, rotation by
10000 in the interleaved pairing, no biases, the tokens 1 and 2 before and after a text. Source: llama2.c's export.py
and run.c (Karpathy 2023).
"""

import contextlib
import dataclasses
import math
import os
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyllama.formats.checkpoint import Checkpoint, SomeRows, Tensor, pieces
from tinyllama.formats.rotary_pairing import is_rotated, to_half_split, to_interleaved
from tinyllama.models import LlamaConfig
from tinyllama.ops.quantized_linear import QuantizedWeight, dequantize

MAGIC = 0x616B3432
HEADER_BYTES = 256              # of the versions with a magic number
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
         "vocab_size", "max_position_embeddings")
GROUPED = "Q8_0/"               # the kind of a matrix in version 2, followed by the size of a group
BOS, EOS = 1, 2                 # run.c ends a text at either
UNSAID = ("bos_token_id", "eos_token_id", "initializer_range", "embedding_initializer_range", "dropout")

EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
TABLES = "cos and sin of the rotation"      # of version 0, which nobody needs: they follow from the sizes
LAYER = "model.layers.{}."
NORMS = (f"{LAYER}input_layernorm.weight", f"{LAYER}post_attention_layernorm.weight")
ATTENTION = tuple(f"{LAYER}self_attn.{name}_proj.weight" for name in "qkvo")
MLP = tuple(f"{LAYER}mlp.{name}_proj.weight" for name in ("gate", "down", "up"))
ORDER = {0: (EMBEDDING, NORMS[0], *ATTENTION, NORMS[1], *MLP, NORM, TABLES, HEAD),
         1: (*NORMS, NORM, EMBEDDING, *ATTENTION, *MLP, HEAD)}
ORDER[2] = ORDER[1]


class Header(NamedTuple):
    """What stands before the weights."""

    version: int
    sizes: tuple            # in the order of SIZES
    is_tied: bool           # the head is the embedding
    group_size: int | None  # of version 2
    length: int             # bytes up to the first weight


class Kind(NamedTuple):
    """One kind of tensor in a file: `count` of them, one after the other, of `size` bytes each, from `offset` on."""

    pattern: str            # of the names, with {} for the layer
    shape: tuple
    offset: int
    size: int
    count: int


class GroupedTensor(Tensor):
    """A matrix of int8 with a scale for each group of numbers, counted through all rows: `rows` are the numbers.

    A group may begin in one row and end in the next. What divides both a row and a group is a group of its own here,
    with the scale of the one that it was cut from: the same numbers.
    """

    def __init__(self, numbers, scales, group_size):
        super().__init__(numbers, numbers.shape, f"{GROUPED}{group_size}")
        self.scales, self.group_size = scales, group_size       # (O · I / group_size,)
        self.width = math.gcd(group_size, self.shape[1])        # of a group within a row

    def read(self, rows=slice(None)):
        """Some rows, as an array of float32."""
        with np.errstate(over="ignore", invalid="ignore"):      # of a damaged file, which stays as it is
            return dequantize(self._quantized(rows), slice(None))

    def quantized(self):
        """All rows as a `QuantizedWeight`."""
        return self._quantized(slice(None))

    def _quantized(self, rows):
        chosen = np.arange(self.shape[0])[rows, None]                               # (N, 1)
        groups = self.shape[1] // self.width
        first = (chosen * groups + np.arange(groups)) * self.width                  # (N, G) the first number of each
        return QuantizedWeight(self.rows[rows], self.scales[first // self.group_size].astype(np.float32, copy=False))


# ---- reading

def read_checkpoint(path):
    """The `Checkpoint` in a file of llama2.c, of version 0, 1 or 2; q and k are put into the half-split pairing.

    The file is mapped into memory, and read where somebody asks for rows. Raises FileNotFoundError where it is missing,
    and ValueError where it is a directory, no such file, or not exactly as long as its sizes say: nothing is allocated
    before that is known.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: expected a file of llama2.c, got a directory")
    with open(path, "rb") as stream:
        start = stream.read(HEADER_BYTES)
        length = os.fstat(stream.fileno()).st_size
    try:
        header = _read_header(start)
        config = _config(header.sizes, header.is_tied)
        kinds = _kinds(config, header)
        _require_length(kinds[-1], length)
    except ValueError as error:
        raise ValueError(f"{path}: expected a model of llama2.c, got a file that is none, or is damaged "
                         f"({error})") from error
    memory = np.asarray(np.memmap(path, np.uint8, "r"))
    tensors = {}
    for pattern, shape, offset, size, count in kinds:
        order = to_half_split(shape[0], config.head_dim) if is_rotated(pattern) else None
        for layer in range(count if pattern != TABLES else 0):
            begin = offset + layer * size
            tensor = _tensor(memory[begin:begin + size], shape, header.group_size)
            tensors[pattern.format(layer)] = tensor if order is None else SomeRows(tensor, order)
    return Checkpoint(path, config, tensors)


def read_tables(path, config):
    """The cosines and sines, (2, context, head_dim / 2), in a file that was read as a model of this configuration.

    None where `write` would compute the same ones, bit for bit, and where the file is of another version or format.
    """
    with open(path, "rb") as stream:
        header = _read_header(stream.read(HEADER_BYTES))
    if header.version != 0 or header.sizes != _sizes(config):
        return None
    kind, = (kind for kind in _kinds(config, header) if kind.pattern == TABLES)
    tables = np.fromfile(path, "<f4", math.prod(kind.shape), offset=kind.offset).reshape(kind.shape)
    return None if tables.tobytes() == _rotation_tables(config).tobytes() else tables


def table_shape(config):
    """The shape of the two tables of a model, one behind the other."""
    return _shapes(config)[TABLES]


def _read_header(start):
    magic, = _unpack("<I", start)
    if magic != MAGIC:
        *sizes, vocabulary, context = _unpack("<7i", start)
        return Header(0, (*sizes, abs(vocabulary), context), vocabulary > 0, None, struct.calcsize("<7i"))
    _, version, *sizes, shared, group_size = _unpack("<Ii7iBi", start)
    if version not in (1, 2):
        raise ValueError(f"version: expected 1 or 2 after the magic number, got {version}")
    if shared not in (0, 1):
        raise ValueError(f"shared classifier: expected 0 or 1, got {shared}")
    if version == 2 and group_size < 1:
        raise ValueError(f"group size: expected at least 1, got {group_size}")
    return Header(version, tuple(sizes), bool(shared), group_size if version == 2 else None, HEADER_BYTES)


def _unpack(form, start):
    if len(start) < struct.calcsize(form):
        raise ValueError(f"header: expected {struct.calcsize(form)} bytes, got {len(start)}")
    return struct.unpack_from(form, start)


def _config(sizes, is_tied):
    """The configuration of a file with these sizes."""
    given = dict(zip(SIZES, sizes, strict=True))
    ends = tuple(token for token in (BOS, EOS) if token < given["vocab_size"])
    return LlamaConfig(**given, tie_word_embeddings=is_tied, eos_token_id=ends or None,
                       bos_token_id=BOS if ends else None)


def _sizes(config):
    return tuple(getattr(config, name) for name in SIZES)


def _kinds(config, header):
    """The `Kind`s of tensors of a file, in its order."""
    kinds, offset, shapes = [], header.length, _shapes(config)
    for pattern in ORDER[header.version]:
        if pattern != HEAD or not header.is_tied:
            size = _bytes(shapes[pattern], header.group_size)
            count = config.num_hidden_layers if pattern.startswith(LAYER) else 1
            kinds.append(Kind(pattern, shapes[pattern], offset, size, count))
            offset += size * count
    return kinds


def _shapes(config):
    hidden, intermediate = config.hidden_size, config.intermediate_size
    queries, keys = (heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads))
    matrices = ((queries, hidden), (keys, hidden), (keys, hidden), (hidden, queries),
                (intermediate, hidden), (hidden, intermediate), (intermediate, hidden))
    table = (config.vocab_size, hidden)
    return {EMBEDDING: table, HEAD: table, TABLES: (2, config.max_position_embeddings, config.head_dim // 2),
            **dict.fromkeys((*NORMS, NORM), (hidden,)), **dict(zip((*ATTENTION, *MLP), matrices, strict=True))}


def _bytes(shape, group_size):
    """The bytes of a tensor; group_size: of a file of version 2, in which matrices are in groups."""
    numbers = math.prod(shape)
    if group_size is None or len(shape) == 1:
        return 4 * numbers
    if numbers % group_size:
        raise ValueError(f"group size: expected a divisor of the {numbers} numbers of a tensor, got {group_size}")
    return numbers + 4 * (numbers // group_size)


def _require_length(last, length):
    expected = last.offset + last.size * last.count
    if length != expected:
        raise ValueError(f"length: expected {expected} bytes, by the sizes in its header, got {length}")


def _tensor(memory, shape, group_size):
    """memory: the bytes of one tensor, in the mapped file."""
    if group_size is None or len(shape) == 1:
        return Tensor(memory.view("<f4").reshape(shape), shape, "F32")
    numbers = math.prod(shape)
    return GroupedTensor(memory[:numbers].view(np.int8).reshape(shape), memory[numbers:].view("<f4"), group_size)


# ---- writing

def save(model, path):
    """Write a model as a file of llama2.c, version 0, which every program of that family reads.

    The file is written beside `path` and then moved there, so that there is the old one, or the new one, and never half
    of one. Folders on the way are made. Raises ValueError for a model that the format cannot hold, naming each setting;
    where a weight is too large for float32; and where `path` is a directory.
    """
    host = model.backend.to_numpy
    write(model.config, {name: Tensor(host(array), array.shape, "F32") for name, array in model.parameters.items()},
          path)


def write(config, tensors, path, tables=None):
    """The same for the configuration and the tensors of a `Checkpoint`, of which a few rows are read at a time.

    tables: what `read_tables` gave; None computes them.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: expected a file to save the model in, got a directory")
    _require_plain(config, path)
    tables = _rotation_tables(config) if tables is None else tables
    tensors = {**tensors, TABLES: Tensor(tables, tables.shape, "F32")}
    sizes = list(_sizes(config))
    sizes[SIZES.index("vocab_size")] *= 1 if config.tie_word_embeddings else -1
    header = Header(0, tuple(sizes), config.tie_word_embeddings, None, struct.calcsize("<7i"))
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with open(new, "wb") as stream:
            stream.write(struct.pack("<7i", *sizes))
            for kind in _kinds(config, header):
                for layer in range(kind.count):
                    _write_tensor(stream, kind.pattern.format(layer), kind.shape, tensors, config)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(new, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            new.unlink()


def _require_plain(config, path):
    """Raise ValueError unless a file with the sizes of this configuration would give it back."""
    sizes = _sizes(config)
    plain = _config(sizes, config.tie_word_embeddings)
    problems = [f"{field.name}: expected {getattr(plain, field.name)!r}, got {getattr(config, field.name)!r}"
                for field in dataclasses.fields(config) if field.name not in UNSAID
                and getattr(plain, field.name) != getattr(config, field.name)]
    problems += [f"{name}: expected less than 2^31, got {size}"
                 for name, size in zip(SIZES, sizes, strict=True) if size >= 2**31]
    if problems:
        raise ValueError(f"{path}: the format of llama2.c cannot hold this model: {'; '.join(problems)}")


def _write_tensor(stream, name, shape, tensors, config):
    tensor = tensors[name]
    if is_rotated(name):
        tensor = SomeRows(tensor, to_interleaved(shape[0], config.head_dim))
    for rows in pieces(shape, 4):
        stream.write(_as_float32(tensor.read(rows), name).tobytes())


def _as_float32(array, name):
    with np.errstate(over="raise"):
        try:
            return np.ascontiguousarray(array, "<f4")
        except FloatingPointError:
            raise ValueError(f"{name}: expected weights that float32 can hold, got a larger one") from None


def _rotation_tables(config):
    """cos and sin of position · frequency, (2, context, head_dim / 2), with angles in float32 as PyTorch has them.

    llama2.c's export.py takes cosines and sines from PyTorch, whose last bit is not always rounded as it should be, and
    differs between machines. Here it is.
    """
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    powers = (config.rope_theta ** exponents.astype(np.float64)).astype(np.float32)         # (D/2,)
    positions = np.arange(config.max_position_embeddings, dtype=np.float32)                 # (P,)
    angles = np.outer(positions, np.float32(1) / powers).astype(np.float64)                 # (P, D/2)
    return np.stack([np.cos(angles), np.sin(angles)]).astype("<f4")                         # (2, P, D/2)
