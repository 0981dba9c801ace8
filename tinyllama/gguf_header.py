"""The head of a GGUF file: what it says of its model, and the list of its tensors.

    magic       "GGUF"                              4 bytes
    version     2 or 3                              uint32
    counts      of the tensors, of the metadata     uint64, uint64
    metadata    key, type, value                    string, uint32, by the type
    tensors     name, dimensions, kind, offset      string, uint32 and as many uint64, uint32, uint64
    padding     to a multiple of the alignment
    data        of every tensor, at its offset from here

A string is its length, a uint64, and as many bytes of UTF-8. An array is the type of its elements, a uint32, their
number, a uint64, and the elements. All numbers are little-endian. Source: ggml's docs/gguf.md.

The file is mapped, not read, and nothing that it claims is believed: each length and number is compared with what is
left of the file before anything is done with it. The library `gguf` does not compare lengths with the file,
keeps objects of its own for each string, and takes seconds and more memory than a quantised model for a vocabulary of
49,152.
"""

import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}   # by type
STRING, ARRAY = 8, 9
MOST_DIMENSIONS = 4
LONGEST_NAME = 2**16 - 1                # bytes of a key or of the name of a tensor
LEAST_METADATA = 8 + 4 + 1              # bytes: an empty key, its type, one byte
LEAST_TENSOR = 8 + 4 + 8 + 4 + 8        # bytes: an empty name, one dimension, its kind and its offset
SHOWN = 60                              # characters of a name in a message


class GGUFTensor(NamedTuple):
    """An entry of the list of tensors. Nothing says yet that its data are in the file."""

    name: str
    shape: tuple[int, ...]      # as NumPy has it, the fastest dimension last
    kind: int                   # ggml's number for how it is held
    offset: int                 # from the beginning of the data, in bytes


class GGUFHeader(NamedTuple):
    """What comes before the data, and the file itself.

    metadata: {key: value}; an array of numbers is an array of NumPy within the mapped file, one of strings `Strings`.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: list[GGUFTensor]
    file: np.ndarray            # (bytes of the file,) uint8, mapped
    data_start: int
    alignment: int


class Strings:
    """An array of strings within the mapped file; each is decoded when somebody asks for it."""

    def __init__(self, path, key, file, start, count):
        self.path, self.key, self.file, self.start, self.count = path, key, file, start, count

    def __len__(self):
        return self.count

    def __iter__(self):
        """Raises ValueError at a string that is not UTF-8."""
        at = self.start
        for index in range(self.count):
            length, = struct.unpack_from("<Q", self.file, at)
            yield _decode(self.file[at + 8:at + 8 + length], f"{self.path}: {self.key}[{index}]")
            at += 8 + length


def read_header(path):
    """Everything before the data of a GGUF file, a `GGUFHeader`.

    Raises FileNotFoundError where nothing is. Raises ValueError, naming the file, what was expected and what came,
    where the file is no GGUF, is of another version or byte order, is cut short or contradicts itself.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: expected a GGUF file, got a directory")
    with open(path, "rb") as stream:
        magic = stream.read(len(MAGIC))
        if magic != MAGIC:
            raise ValueError(f"{path}: expected a GGUF file, which begins with {MAGIC!r}, got {magic!r}")
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    head = _Head(path, mapped)
    head.at = len(MAGIC)
    _check_version(path, head.number("I", "the version"))
    tensor_count = head.number("Q", "the number of tensors")
    metadata_count = head.number("Q", "the number of metadata")
    head.need(metadata_count * LEAST_METADATA, f"{metadata_count} metadata")
    metadata = {}
    for _ in range(metadata_count):
        key = head.name("a key of the metadata")
        _require_new(path, key, metadata)
        metadata[key] = head.value(head.number("I", f"the type of {_show(key)}"), _show(key))
    head.need(tensor_count * LEAST_TENSOR, f"{tensor_count} tensors")
    tensors = {}
    for _ in range(tensor_count):
        tensor = head.tensor()
        _require_new(path, tensor.name, tensors)
        tensors[tensor.name] = tensor
    alignment = metadata.get("general.alignment", 32)
    if not (type(alignment) is int and alignment > 0 and alignment & (alignment - 1) == 0):
        raise ValueError(f"{path}: general.alignment: expected a power of two, got {alignment!r}")
    data_start = -(-head.at // alignment) * alignment
    file = np.frombuffer(mapped, dtype=np.uint8)
    return GGUFHeader(path, metadata, list(tensors.values()), file, data_start, alignment)


class _Head:
    """A position in the mapped file that moves on with all that is taken from it, and never beyond the end."""

    def __init__(self, path, mapped):
        self.path, self.mapped, self.at = path, mapped, 0

    def need(self, size, what):
        left = len(self.mapped) - self.at
        if size > left:
            raise ValueError(f"{self.path}: expected {what} at byte {self.at}, at least {size} bytes, got a file with "
                             f"{left} bytes left: it is cut short or damaged")

    def take(self, size, what):
        """Where the next `size` bytes begin."""
        self.need(size, what)
        start = self.at
        self.at += size
        return start

    def number(self, format, what):
        format = f"<{format}"
        number, = struct.unpack_from(format, self.mapped, self.take(struct.calcsize(format), what))
        return number

    def string(self, what):
        return self.text(self.number("Q", f"the length of {what}"), what)

    def name(self, what):
        """A string that no sound file makes long."""
        length = self.number("Q", f"the length of {what}")
        if length > LONGEST_NAME:
            raise ValueError(f"{self.path}: {what}: expected at most {LONGEST_NAME} bytes, got {length}")
        return self.text(length, what)

    def text(self, length, what):
        start = self.take(length, what)
        return _decode(self.mapped[start:start + length], f"{self.path}: {what}")

    def value(self, kind, key):
        """A value of the metadata: a number, True or False, a string, an array."""
        if kind in SCALARS:
            return self.number(SCALARS[kind], key)
        if kind == STRING:
            return self.string(key)
        if kind == ARRAY:
            return self.array(key)
        raise ValueError(f"{self.path}: {key}: expected a type from 0 to 12, got {kind}")

    def array(self, key):
        kind = self.number("I", f"the type of the elements of {key}")
        count = self.number("Q", f"the number of elements of {key}")
        what = f"the {count} elements of {key}"
        if kind == STRING:
            return self.strings(count, key, what)
        if kind not in SCALARS:
            raise ValueError(f"{self.path}: {key}: expected an array of numbers or strings, got one of type {kind}")
        dtype = np.dtype(f"<{SCALARS[kind]}")
        return np.frombuffer(self.mapped, dtype, count, self.take(count * dtype.itemsize, what)) if count else \
            np.empty(0, dtype)

    def strings(self, count, key, what):
        self.need(count * 8, what)
        start = at = self.at
        end = len(self.mapped)
        for _ in range(count):
            if at + 8 > end:
                break
            at += 8 + struct.unpack_from("<Q", self.mapped, at)[0]
        else:
            self.take(at - start, what)
            return Strings(self.path, key, np.frombuffer(self.mapped, np.uint8), start, count)
        raise ValueError(f"{self.path}: expected {what}, got a file that ends before: it is cut short or damaged")

    def tensor(self):
        """An entry of the list of tensors."""
        name = self.name("the name of a tensor")
        what = f"the tensor {_show(name)}"
        dimensions = self.number("I", f"the number of dimensions of {what}")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise ValueError(f"{self.path}: {what}: expected 1 to {MOST_DIMENSIONS} dimensions, got {dimensions}")
        shape = tuple(self.number("Q", f"a dimension of {what}") for _ in range(dimensions))[::-1]
        if 0 in shape:
            raise ValueError(f"{self.path}: {what}: expected dimensions of at least 1, got the shape {shape}")
        kind, offset = self.number("I", f"the kind of {what}"), self.number("Q", f"the offset of {what}")
        return GGUFTensor(name, shape, kind, offset)


def _check_version(path, version):
    if version & 0xFFFF == 0 and version:
        raise ValueError(f"{path}: expected a little-endian file, got a big-endian one")
    if version not in VERSIONS:
        raise ValueError(f"{path}: expected version {' or '.join(map(str, VERSIONS))} of GGUF, got {version}")


def _require_new(path, name, known):
    if name in known:
        raise ValueError(f"{path}: expected each name once, got {_show(name)} twice")


def _decode(data, what):
    try:
        return bytes(data).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{what}: expected UTF-8, got {bytes(data[:SHOWN])!r}") from error


def _show(name):
    """A name as a message shows it: a damaged file may give one of a million characters."""
    return name if len(name) <= SHOWN and name.isprintable() else repr(name[:SHOWN])
