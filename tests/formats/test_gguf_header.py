"""What comes before the data of a GGUF file, written byte by byte, and everything that may be wrong with it."""

import struct
import tracemalloc

import numpy as np
import pytest

from tinyllama.gguf_header import Strings, read_header

UINT32, FLOAT32, STRING, ARRAY, UINT64 = 4, 6, 8, 9, 10
BEYOND = 2**63


def string(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def entry(key, kind, value):
    """One of the metadata; `value` is bytes."""
    return string(key) + struct.pack("<I", kind) + value


def array(kind, count, data):
    return struct.pack("<IQ", kind, count) + data


def tensor(name="w", dimensions=(3,), kind=0, offset=0, number=None):
    number = len(dimensions) if number is None else number
    return string(name) + struct.pack(f"<I{len(dimensions)}QIQ", number, *dimensions, kind, offset)


def head(*, magic=b"GGUF", version=3, tensors=(), metadata=(), tensor_count=None, metadata_count=None, data=b""):
    counts = [len(entries) if count is None else count
              for entries, count in ((tensors, tensor_count), (metadata, metadata_count))]
    return magic + struct.pack("<IQQ", version, *counts) + b"".join([*metadata, *tensors]) + data


@pytest.fixture
def read(tmp_path):
    def read(data):
        (tmp_path / "model.gguf").write_bytes(data)
        return read_header(tmp_path / "model.gguf")
    return read


@pytest.mark.parametrize("version", [2, 3])
def test_a_header_by_hand(read, version):
    kinds = {0: ("B", 255), 1: ("b", -3), 2: ("H", 2**16 - 1), 3: ("h", -300), 4: ("I", 2**32 - 1), 5: ("i", -70000),
             6: ("f", 0.5), 7: ("?", True), 10: ("Q", 2**64 - 1), 11: ("q", -(2**40)), 12: ("d", 0.1)}
    metadata = [entry(f"of {kind}", kind, struct.pack(f"<{code}", value)) for kind, (code, value) in kinds.items()]
    metadata += [
        entry("text", STRING, string("Grüße")), entry("numbers", ARRAY, array(5, 3, struct.pack("<3i", 1, -2, 3))),
        entry("words", ARRAY, array(STRING, 3, string("a") + string("") + string("é 漢"))),
        entry("none", ARRAY, array(UINT32, 0, b"")), entry("no words", ARRAY, array(STRING, 0, b"")),
    ]
    tensors = [tensor("first", (5, 2), 3, 64), tensor("second", (7,), 99, 2**40)]
    header = read(head(version=version, metadata=metadata, tensors=tensors, data=bytes(100)))
    for kind, (_, value) in kinds.items():
        assert header.metadata[f"of {kind}"] == value
        assert type(header.metadata[f"of {kind}"]) is type(value)
    assert header.metadata["text"] == "Grüße"
    np.testing.assert_array_equal(header.metadata["numbers"], np.array([1, -2, 3], dtype=np.int32), strict=True)
    assert list(header.metadata["words"]) == ["a", "", "é 漢"]
    assert len(header.metadata["words"]) == 3
    assert (len(header.metadata["none"]), list(header.metadata["no words"])) == (0, [])
    assert [tuple(found) for found in header.tensors] == [("first", (2, 5), 3, 64), ("second", (7,), 99, 2**40)]
    end = len(head(metadata=metadata, tensors=tensors))
    assert header.data_start % 32 == 0
    assert 0 <= header.data_start - end < 32
    assert len(header.file) == end + 100


def test_an_alignment_of_its_own(read):
    alignment = entry("general.alignment", UINT32, struct.pack("<I", 256))
    assert read(head(metadata=[alignment], data=bytes(300))).data_start == 256


LARGE = "it is cut short or damaged"
DAMAGED = {
    "no bytes": (b"", "begins with b'GGUF', got b''"),
    "another magic": (head(magic=b"GGML"), "begins with b'GGUF', got b'GGML'"),
    "a directory of safetensors": (b'\x10\0\0\0\0\0\0\0{"a"', "begins with b'GGUF'"),
    "version 1": (head(version=1), "expected version 2 or 3 of GGUF, got 1"),
    "version 0": (head(version=0), "expected version 2 or 3 of GGUF, got 0"),
    "version 4": (head(version=4), "expected version 2 or 3 of GGUF, got 4"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "expected a little-endian file, got a big-endian one"),
    "many tensors": (head(tensor_count=BEYOND), f"{BEYOND} tensors at byte 24, .*{LARGE}"),
    "many metadata": (head(metadata_count=BEYOND), f"{BEYOND} metadata at byte 24, .*{LARGE}"),
    "fewer metadata than it says": (head(metadata=[entry("a", STRING, string("b" * 20))], metadata_count=2), LARGE),
    "fewer tensors than it says": (head(tensors=[tensor("w" * 40)], tensor_count=2), LARGE),
    "a long key": (head(metadata=[struct.pack("<Q", BEYOND) + b"key" * 9]), f"at most 65535 bytes, got {BEYOND}"),
    "a long text": (head(metadata=[entry("key", STRING, struct.pack("<Q", BEYOND))]), f"key at byte .*{LARGE}"),
    "a long array": (head(metadata=[entry("key", ARRAY, array(UINT64, BEYOND, b""))]), f"elements of key.*{LARGE}"),
    "many words": (head(metadata=[entry("key", ARRAY, array(STRING, BEYOND, b""))]), f"elements of key.*{LARGE}"),
    "a long word": (head(metadata=[entry("key", ARRAY, array(STRING, 2, struct.pack("<Q", BEYOND) + string("b" * 9)))]),
                    "2 elements of key, got a file that ends before"),
    "a long last word": (head(metadata=[entry("key", ARRAY, array(STRING, 2, string("a") + struct.pack("<Q", 99)))]),
                         f"2 elements of key.*{LARGE}"),
    "an array of arrays": (head(metadata=[entry("key", ARRAY, array(ARRAY, 1, array(UINT32, 1, bytes(4))))]),
                           "key: expected an array of numbers or strings, got one of type 9"),
    "an unknown type": (head(metadata=[entry("key", 13, bytes(8))]), "key: expected a type from 0 to 12, got 13"),
    "a key twice": (head(metadata=[entry("key", 7, b"\1")] * 2), "expected each name once, got key twice"),
    "a tensor twice": (head(tensors=[tensor()] * 2), "expected each name once, got w twice"),
    "a key that is no text": (head(metadata=[entry(b"\xff\xfe", 7, b"\1")]), "a key of the metadata: expected UTF-8"),
    "a value that is no text": (head(metadata=[entry("key", STRING, string(b"\xff"))]), "key: expected UTF-8"),
    "a tensor whose name is no text": (head(tensors=[tensor(b"\xff")]), "the name of a tensor: expected UTF-8"),
    "no dimensions": (head(tensors=[tensor(dimensions=(), number=0)], data=bytes(8)), "tensor w: expected 1 to 4 dim"),
    "five dimensions": (head(tensors=[tensor(dimensions=(1,) * 5)]), "tensor w: expected 1 to 4 dimensions, got 5"),
    "a dimension of 0": (head(tensors=[tensor(dimensions=(0, 3))]), r"at least 1, got the shape \(3, 0\)"),
    "an alignment of 24": (head(metadata=[entry("general.alignment", UINT32, struct.pack("<I", 24))]),
                           "general.alignment: expected a power of two, got 24"),
    "an alignment of 0": (head(metadata=[entry("general.alignment", UINT32, bytes(4))]), "a power of two, got 0"),
    "an alignment that is no whole number": (head(metadata=[entry("general.alignment", FLOAT32, bytes(4))]),
                                             "a power of two, got 0.0"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_header_is_refused(read, name):
    data, message = DAMAGED[name]
    tracemalloc.start()
    with pytest.raises(ValueError, match=rf"model\.gguf: .*{message}"):
        read(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_a_file_that_is_cut_short_anywhere_is_refused(read):
    words = array(STRING, 2, string("a") + string("b"))
    metadata = [entry("text", STRING, string("abc")), entry("words", ARRAY, words),
                entry("numbers", ARRAY, array(UINT32, 2, bytes(8))), entry("flag", 7, b"\1")]
    data = head(metadata=metadata, tensors=[tensor("first", (5, 2)), tensor("second")])
    for length in range(len(data)):
        with pytest.raises(ValueError, match=r"model\.gguf: expected"):
            read(data[:length])
    assert len(read(data).tensors) == 2


def test_a_word_that_is_no_text_is_refused_when_it_is_read(read):
    data = head(metadata=[entry("words", ARRAY, array(STRING, 2, string("a") + string(b"\xc3")))])
    words = read(data).metadata["words"]
    assert isinstance(words, Strings)
    with pytest.raises(ValueError, match=r"model\.gguf: words\[1\]: expected UTF-8, got b'\\xc3'"):
        list(words)


def test_names_in_messages_are_short_and_printable(read):
    with pytest.raises(ValueError, match="twice") as caught:
        read(head(metadata=[entry("k\n" * 9000, 7, b"\1")] * 2))
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_a_path_where_no_file_is(tmp_path):
    with pytest.raises(ValueError, match="expected a GGUF file, got a directory"):
        read_header(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_header(tmp_path / "nowhere.gguf")


def test_the_library_reads_the_same(tmp_path):
    gguf = pytest.importorskip("gguf", reason="gguf is not installed, so nothing else can read the file.")
    words = array(STRING, 3, string("a") + string("") + string("é 漢"))
    metadata = [entry("general.architecture", STRING, string("llama")), entry("words", ARRAY, words),
                entry("number", FLOAT32, struct.pack("<f", 0.1))]
    path = tmp_path / "model.gguf"
    path.write_bytes(head(metadata=metadata, tensors=[tensor("w", (32, 2), 2, 32)], data=bytes(200)))
    ours, theirs = read_header(path), gguf.GGUFReader(path)
    for key, value in ours.metadata.items():
        assert (list(value) if isinstance(value, Strings) else value) == theirs.fields[key].contents()
    assert ours.data_start == theirs.data_offset
    assert theirs.tensors[0].data_offset == ours.data_start + ours.tensors[0].offset
    assert ours.tensors[0].shape == tuple(reversed(theirs.tensors[0].shape.tolist()))
