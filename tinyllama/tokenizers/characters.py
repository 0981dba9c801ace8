"""The simplest tokenizer: one token for each distinct character of the text it was made from."""

import numpy as np

from tinyllama.tokenizers.arguments import checked_ids, checked_token, encoded
from tinyllama.tokenizers.files import expect, read_document, write_document


class CharacterTokenizer:
    """One token per character: token i stands for `characters[i]`.

    A vocabulary of a few dozen tokens, learned by looking at the text once. There are no special tokens, and a
    character that was not in the text has no token at all.

    Raises ValueError where `characters` is empty, repeats a character or holds half of one (a lone surrogate).
    """

    TYPE = "characters"
    VERSION = 1

    bos_token_id = None
    eos_token_id = None

    def __init__(self, characters):
        codes = _code_points(characters, name="characters")
        if not len(codes):
            raise ValueError("characters: expected at least one character, got none")
        if len(set(characters)) < len(characters):
            repeated = next(character for character in characters if characters.count(character) > 1)
            raise ValueError(f"characters: expected distinct characters, got {repeated!r} more than once")
        self.characters = characters
        self._codes = codes                                                     # (vocab_size,)
        # Code point -> token. Whatever lies beyond the largest code point shares the last entry, which stays -1.
        self._tokens = np.full(int(codes.max()) + 2, -1, dtype=np.int32)
        self._tokens[codes] = np.arange(len(codes), dtype=np.int32)

    @classmethod
    def train(cls, text):
        """The tokenizer of the distinct characters of `text`, in the order of their code points.

        Raises ValueError where the text is empty or holds a lone surrogate.
        """
        codes = np.unique(_code_points(text, name="text"))
        if not len(codes):
            raise ValueError("text: expected at least one character to train on, got an empty text")
        return cls(_characters(codes))

    @property
    def vocab_size(self):
        """How many tokens there are."""
        return len(self.characters)

    @property
    def special_tokens(self):
        """The special tokens: there are none."""
        return {}

    @property
    def merges(self):
        """The merges, of which there are none: a character is as large as a token gets."""
        return []

    def encode(self, text, bos=False):
        """The tokens of `text` as a list of int, one a character.

        Raises ValueError for a character that has no token, and for bos=True, since there is no such token.
        """
        if bos:
            raise ValueError("bos: expected False, got True; a character tokenizer has no special tokens")
        return self.encode_to_array(text).tolist()

    def encode_to_array(self, text):
        """The same tokens as an array, which suits a long text.

        text: T characters  ->  (T,) int32. Raises ValueError for a character that has no token.
        """
        codes = _code_points(text, name="text")                                 # (T,)
        tokens = self._tokens[np.minimum(codes, len(self._tokens) - 1)]         # (T,)
        unknown = tokens < 0
        if unknown.any():
            at = int(unknown.argmax())
            raise ValueError(f"text: position {at} holds {text[at]!r} (U+{codes[at]:04X}), which is not among the "
                             f"{self.vocab_size} characters of this tokenizer")
        return tokens

    def decode(self, ids):
        """The text of some tokens.

        ids: (T,) integers in an array, a list or whatever yields them, or one integer  ->  T characters.
        Raises ValueError where they are not integers in 0 .. vocab_size - 1.
        """
        return _characters(self._codes[checked_ids(ids, self.vocab_size)])

    def decode_bytes(self, ids):
        """The UTF-8 bytes of the text of some tokens. Raises what `decode` raises."""
        return self.decode(ids).encode("utf-8")

    def token_bytes(self, token):
        """The UTF-8 bytes of one token's character. Raises ValueError where it is not in 0 .. vocab_size - 1."""
        return self.characters[checked_token(token, self.vocab_size)].encode("utf-8")

    def save(self, path):
        """Write the tokenizer to a JSON file, or to tokenizer.json in `path` where that is a directory."""
        write_document(path, {"type": self.TYPE, "version": self.VERSION, "characters": self.characters})

    @classmethod
    def load(cls, path):
        """The tokenizer that `save` wrote to this file or directory.

        Raises FileNotFoundError where there is none, and ValueError where the file holds something else.
        """
        document = read_document(path)
        expect(path, document, "type", [cls.TYPE])
        return cls.from_document(document, path)

    @classmethod
    def from_document(cls, document, path):
        """The tokenizer in a document that was read from `path`. Raises ValueError where it does not describe one."""
        expect(path, document, "version", [cls.VERSION])
        characters = document.get("characters")
        if not isinstance(characters, str):
            raise ValueError(f'{path}: expected "characters" to be a string, got {characters!r}')
        try:
            return cls(characters)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def __repr__(self):
        return f"CharacterTokenizer({self.characters!r})"


def _code_points(text, *, name):
    """T characters -> (T,) uint32. Raises ValueError for a lone surrogate: half of a character, not a character."""
    return np.frombuffer(encoded(text, "utf-32-le", name=name), dtype="<u4")


def _characters(codes):
    """(T,) uint32 -> T characters."""
    return codes.astype("<u4").tobytes().decode("utf-32-le")
