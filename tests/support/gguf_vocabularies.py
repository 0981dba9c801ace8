"""The heads of GGUF files, byte by byte: what a reader of their metadata meets."""

import struct

from tinyllama.tokenizers.byte_level import PRINTABLE

CODES = {"B": 0, "b": 1, "H": 2, "h": 3, "I": 4, "i": 5, "f": 6, "?": 7, "Q": 10, "q": 11, "d": 12}

TOKENS = ["<|im_start|>", "<|im_end|>", *PRINTABLE, "ab", "abĠ", "<tool>"]
GPT2 = {"model": "gpt2", "pre": "smollm", "tokens": TOKENS, "merges": ["a b", "ab Ġ"], "bos_token_id": 0,
        "token_type": [3, 3, *[1] * 258, 4], "eos_token_id": 1, "add_bos_token": False}
PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "▁ab", "<tool>"]
LLAMA = {"model": "llama", "tokens": PIECES, "scores": [0.0] * 259 + [-1.0, -2.0, -3.0, -0.5, -0.25, 0.0],
         "token_type": [2, 3, 3, *[6] * 256, *[1] * 5, 4], "bos_token_id": 1, "eos_token_id": 2}


def text(value):
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def entry(name, value, code=None):
    """One entry. code: the letter of `struct` for a number or a list of numbers."""
    head = text(name)
    if isinstance(value, (str, bytes)):
        return head + struct.pack("<I", 8) + text(value)
    if isinstance(value, list) and code is None:
        return head + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    if isinstance(value, list):
        return head + struct.pack("<IIQ", 9, CODES[code], len(value)) + struct.pack(f"<{len(value)}{code}", *value)
    code = code or ("?" if isinstance(value, bool) else "I")
    return head + struct.pack("<I", CODES[code]) + struct.pack(f"<{code}", value)


def head(entries, version=3, magic=b"GGUF"):
    """The bytes of a file without tensors."""
    return magic + struct.pack("<IQQ", version, 0, len(entries)) + b"".join(entries)


def write(path, parts):
    """A file with these parts under tokenizer.ggml, and a chat template where there is one among them."""
    codes = {"scores": "f", "token_type": "i"}
    entries = [entry(name if name.startswith("tokenizer.") else f"tokenizer.ggml.{name}", value, codes.get(name))
               for name, value in parts.items()]
    path.write_bytes(head([entry("general.architecture", "llama"), *entries]))
    return path
