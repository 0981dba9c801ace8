"""What byte-level tokenizers share: text cut into words before any merge, and bytes written as printable characters."""

import functools

import regex

# What GPT-2 cuts a text into (Radford et al. 2019, section 2.2): the endings of English contractions; then letters,
# digits, or other signs, each run with the one space before it; then white space. The lookahead leaves the last blank
# of a longer run to the word that follows it, so that a word looks the same after one space and after several.
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _printable_bytes():
    """A character for each byte, in the order of the bytes: 256 characters.

    The file of a byte-level tokenizer is text, but a piece may be half of a character, and a space or a line break
    would be hard to see in it. Hence every byte is written as one visible character. The 188 bytes that are visible
    characters in Latin-1 stand for themselves; the others, in order, take the characters from U+0100 on. A space is
    the 33rd of those, which makes it Ġ (U+0120).
    """
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(0x100, 0x200))
    return "".join(chr(byte if byte in visible else next(others)) for byte in range(256))


PRINTABLE = _printable_bytes()

# The bytes in the order of their characters. It numbers the 256 pieces that every tokenizer begins with.
ALPHABET = bytes(sorted(range(256), key=PRINTABLE.__getitem__))

_BYTES = {character: byte for byte, character in enumerate(PRINTABLE)}


def printable(piece):
    """The bytes of a piece as visible characters, one each: b" caf\\xc3\\xa9"  ->  "ĠcafÃ©"."""
    return "".join(PRINTABLE[byte] for byte in piece)


def from_printable(text):
    """The bytes that `printable` wrote. Raises ValueError for a character that stands for none."""
    try:
        return bytes(_BYTES[character] for character in text)
    except KeyError as error:
        raise ValueError(f"expected characters that stand for bytes, as Ġ does for a space, got {error.args[0]!r} "
                         f"in {text!r}") from None


@functools.cache
def word_finder(pattern):
    """A compiled expression that finds what the pattern matches, and, in between, what it does not."""
    return regex.compile(rf"{pattern}|(?:(?!{pattern})[\s\S])+")


def split_words(text, patterns=(GPT2_PATTERN,)):
    """Cut a text into words, which no merge crosses; joined, they are the text again.

    Each pattern in turn cuts what the one before has left whole, into what it matches and what lies in between.
    """
    words = [text] if text else []
    for pattern in patterns:
        find = word_finder(pattern).findall
        words = find(words[0]) if len(words) == 1 else [part for word in words for part in find(word)]
    return words
