"""The wire format of protocol buffers, as far as it takes to read a file: numbered fields, one after the other.

A message is a run of fields. Each begins with a tag, the whole number (field · 8 + type), and the type tells how long
the value is: 0 a whole number, 1 eight bytes, 2 a length and that many bytes (a text, or another message), 5 four
bytes. A whole number is written seven bits a byte, the lowest first, with the eighth bit set in all bytes but the last.
Source: https://protobuf.dev/programming-guides/encoding/
"""

import struct

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_NAMES = {VARINT: "a whole number", FIXED64: "eight bytes", BYTES: "bytes", FIXED32: "four bytes"}


def fields(message):
    """Yield (number, type, value) for each field of a message; the value is an int or bytes.

    Raises ValueError where the bytes are no such message: cut short, or with a length that runs beyond the end.
    """
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, at = _varint(message, at)
        elif kind in _NAMES:
            size, at = _varint(message, at) if kind == BYTES else ({FIXED64: 8, FIXED32: 4}[kind], at)
            if size > end - at:
                raise ValueError(f"expected {size} bytes in field {number} at offset {at}, got {end - at}")
            value, at = message[at:at + size], at + size
        else:
            raise ValueError(f"expected a field of type 0, 1, 2 or 5 before offset {at}, got type {kind}")
        yield number, kind, value


def read(message, **numbers):
    """{name: value} of the fields with these numbers and types: read(message, text=(1, BYTES), score=(2, FIXED32)).

    A field that is not there has no entry. Of a field that comes more than once the last counts. Four bytes are read as
    a float. Raises ValueError where the bytes are no message, or a field has another type.
    """
    names = {number: (name, kind) for name, (number, kind) in numbers.items()}
    found = {}
    for number, kind, value in fields(message):
        if number in names:
            name, expected = names[number]
            if kind != expected:
                raise ValueError(f"expected field {number} to be {_NAMES[expected]}, got {_NAMES[kind]}")
            found[name] = struct.unpack("<f", value)[0] if kind == FIXED32 else value
    return found


def _varint(message, at):
    """The whole number that begins at `at`, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError(f"expected a whole number at offset {at}, got the end of the message")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"expected a whole number of at most ten bytes before offset {at}, got a longer one")
