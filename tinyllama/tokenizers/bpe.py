"""Byte-level byte-pair encoding: from text to tokens by the merges that a training found, and back."""

import codecs
import functools
import heapq
import unicodedata
from itertools import chain
from typing import NamedTuple

import numpy as np

from tinyllama.tokenizers.added_tokens import AddedToken, AddedTokens
from tinyllama.tokenizers.arguments import checked_ids, checked_token, encoded
from tinyllama.tokenizers.bpe_files import read_parts, to_document
from tinyllama.tokenizers.byte_level import GPT2_PATTERN, printable, split_words
from tinyllama.tokenizers.files import read_document, write_document
from tinyllama.tokenizers.word_cache import WordCache


class Merge(NamedTuple):
    """Two pieces that become one. Those with a lower rank were learned earlier and are applied first."""

    rank: int
    left: bytes
    right: bytes
    merged: bytes
    count: int | None       # how often the two stood side by side in the training text when they were merged


class BytePairTokenizer:
    """Pieces of bytes, grown from single bytes by merges: token i stands for `vocabulary[i]`.

    A text is cut into words, a word into its UTF-8 bytes, and then, of all the pairs of neighbours that have a merge,
    the one with the lowest rank becomes one piece, again and again until there is none. Since every byte is a piece,
    every text has tokens, and so has every string of bytes. Source: Sennrich et al. 2016, section 3.2, for the merges;
    Radford et al. 2019, section 2.2, for the bytes. `train_tokenizer` makes such a tokenizer from a text.

    vocabulary: the bytes of each piece, and a str for each added token that is no piece.
    merges: (left, right) for each merge, in the order of their ranks.
    counts: how often each pair was seen, if that is known.
    bos_token_id, eos_token_id: the special tokens that begin and end a text, if there are such.
    patterns: how a text is cut into words, see `split_words`.
    whole_words: a word that is a piece is that token, whether or not merges lead there, as in Llama 3.
    added_tokens: an `AddedToken` for each str of the vocabulary, and for pieces that are found before the text is cut
    into words. None: every str of the vocabulary is a special token.
    normalization: "NFC" to compose a letter and its accents before anything else, as in Qwen2, or None.
    adds_bos: whether a model expects bos_token_id before every text; None where nobody said. True is written to the
    file, where the library `tokenizers` obeys it; `encode` puts the token where it is asked to.

    Raises ValueError where these do not fit together.
    """

    CACHED_WORDS = 1 << 17

    def __init__(self, vocabulary, merges, *, counts=None, bos_token_id=None, eos_token_id=None,
                 patterns=(GPT2_PATTERN,), whole_words=False, added_tokens=None, normalization=None, adds_bos=None):
        self.vocabulary = list(vocabulary)
        self._names = {piece: token for token, piece in enumerate(self.vocabulary) if isinstance(piece, str)}
        self.added_tokens = [AddedToken(*named) for named in self._names.items()] if added_tokens is None \
            else list(added_tokens)
        self.special_tokens = {token.text: token.token for token in self.added_tokens if token.special}
        self._special_ids = frozenset(self.special_tokens.values())
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        self.patterns = tuple(patterns)
        self.whole_words = whole_words
        self.normalization = normalization
        self.adds_bos = adds_bos
        self.counts = list(counts) if counts is not None else None
        self._tokens = {piece: token for token, piece in enumerate(self.vocabulary) if isinstance(piece, bytes)}
        self._check_vocabulary()
        self._pairs = _as_tokens(self._tokens, merges)                          # [(left, right, merged)] by rank
        self._merges = {(left, right): (rank, merged) for rank, (left, right, merged) in enumerate(self._pairs)}
        self._check_merges()
        self._raw_names = AddedTokens([token for token in self.added_tokens if not token.normalized])
        self._normalized_names = AddedTokens([token._replace(text=self._normalize(token.text))
                                              for token in self.added_tokens if token.normalized])
        self._words = WordCache(self._encode_word, self.CACHED_WORDS)

    def _check_vocabulary(self):
        if len(self._tokens) + len(self._names) < len(self.vocabulary):
            seen = set()
            repeated = next(piece for piece in self.vocabulary if piece in seen or seen.add(piece))
            raise ValueError(f"vocabulary: expected distinct pieces, got {repeated!r} more than once")
        if "" in self._names:
            raise ValueError("vocabulary: expected special tokens of at least one character, got ''")
        clash = self._names.keys() & {printable(piece) for piece in self._tokens}
        if clash:
            raise ValueError(f"vocabulary: expected special tokens that are spelled like no piece, got {clash.pop()!r}")
        for name in ("bos_token_id", "eos_token_id"):
            token = getattr(self, name)
            if token is not None and (isinstance(token, bool) or token not in self.special_tokens.values()):
                raise ValueError(f"{name}: expected None or one of the special tokens "
                                 f"{dict(list(self.special_tokens.items())[:8])}, got {token!r}")
        if self.adds_bos and self.bos_token_id is None:
            raise ValueError("adds_bos: expected False or None, since no token begins a text, got True")
        if self.normalization not in (None, "NFC"):
            raise ValueError(f"normalization: expected 'NFC' or None, got {self.normalization!r}")
        self._check_added_tokens()

    def _check_added_tokens(self):
        if len({token.text for token in self.added_tokens}) < len(self.added_tokens):
            raise ValueError("added_tokens: expected distinct texts, got one more than once")
        missing = self._names.keys() - {token.text for token in self.added_tokens}
        if missing:
            raise ValueError("added_tokens: expected one for each str of the vocabulary, "
                             f"got none for {missing.pop()!r}")
        for text, token, *_ in self.added_tokens:
            if not 0 <= token < len(self.vocabulary) or self.vocabulary[token] not in (text, text.encode()):
                raise ValueError(f"added_tokens: expected a token of the vocabulary that is spelled {text!r}, "
                                 f"got {token!r}")

    def _check_merges(self):
        if len(self._merges) < len(self._pairs):
            raise ValueError(f"merges: expected {len(self._pairs)} distinct pairs, got {len(self._merges)}")
        if self.counts is not None and len(self.counts) != len(self._pairs):
            raise ValueError(f"counts: expected one for each of the {len(self._pairs)} merges, got {len(self.counts)}")

    @property
    def vocab_size(self):
        """How many tokens there are, special ones included."""
        return len(self.vocabulary)

    @functools.cached_property
    def merges(self):
        """The merges by rank: a list of `Merge`, whose count is None where it is not known."""
        counts = self.counts or [None] * len(self._pairs)
        return [Merge(rank, *(self.vocabulary[token] for token in tokens), count)
                for rank, (tokens, count) in enumerate(zip(self._pairs, counts, strict=True))]

    def encode(self, text, bos=False, *, allow_special=False):
        """The tokens of `text` as a list of int, after the one that begins a text if `bos`.

        The name of a special token in `text` is text like any other, so that what a stranger writes can never end a
        document. With allow_special=True it becomes that token. An added token that is not special is found in every
        text.

        Raises ValueError for a lone surrogate, for bos=True where there is no such token, and for a byte without a
        token, which only a tokenizer from a file may lack.
        """
        if bos and self.bos_token_id is None:
            raise ValueError("bos: expected False, got True; this tokenizer has no token that begins a text")
        encoded(text, "utf-8")
        first = [self.bos_token_id] if bos else []
        return first + list(chain.from_iterable(self._encode_parts(text, allow_special)))

    def encode_to_array(self, text):
        """The tokens of `text` as an array, which suits a long one.

        text: str  ->  (T,) int32. Raises what `encode` raises.
        """
        encoded(text, "utf-8")
        return np.fromiter(chain.from_iterable(self._encode_parts(text, False)), dtype=np.int32)

    def encode_bytes(self, data):
        """The tokens of any bytes, text or not; for the bytes of a text in UTF-8 they are the tokens of that text."""
        text = bytes(data).decode("utf-8", errors="surrogateescape")        # a byte that is no text: half a character
        return list(chain.from_iterable(self._encode_parts(text, False)))

    def encode_masked(self, text, hidden):
        """The tokens of a text in which some characters are hidden from the search for added tokens.

        hidden: {code point: character}; where such a code point stands, that character is meant. Special tokens are
        found, but none that would need a hidden character: this is how `encode_chat` keeps what a template wrote and
        what a stranger wrote apart.
        """
        parts = self._split(text, allow_special=True)
        return list(chain.from_iterable(self._encode_all(
            self._normalize(part.translate(hidden)) if isinstance(part, str) else part for part in parts)))

    def _encode_parts(self, text, allow_special):
        """An iterator over the tokens of each word of `text`."""
        return self._encode_all(self._split(text, allow_special))

    def _encode_all(self, parts):
        """An iterator over the tokens of each word of some texts, and over the added tokens that stand between them."""
        return chain.from_iterable(
            map(self._words.__getitem__, split_words(part, self.patterns)) if isinstance(part, str) else [(part.token,)]
            for part in parts)

    def _split(self, text, allow_special):
        """Cut a text at its added tokens: an iterator over str, normalized, and AddedToken."""
        for raw in self._raw_names.split(text, allow_special):
            if isinstance(raw, str):
                yield from self._normalized_names.split(self._normalize(raw), allow_special)
            else:
                yield raw

    def _normalize(self, text):
        return text if self.normalization is None else unicodedata.normalize(self.normalization, text)

    def _encode_word(self, word):
        """The tokens of one word as a tuple."""
        data = word.encode("utf-8", errors="surrogateescape")
        if self.whole_words and data in self._tokens:
            return (self._tokens[data],)
        try:
            tokens = [self._tokens[data[i:i + 1]] for i in range(len(data))]
        except KeyError as error:
            raise ValueError(f"text: {word!r} holds byte 0x{error.args[0].hex()}, which has no token here") from None
        return tuple(merge_by_rank(tokens, self._merges))

    def decode(self, ids, errors="replace"):
        """The text of some tokens, special ones written by their names.

        ids: (T,) integers in an array, a list or whatever yields them, or one integer  ->  str.
        errors: what becomes of bytes that are no text in UTF-8, as when a character is cut in half: "replace" puts
        U+FFFD there, "strict" raises UnicodeDecodeError, and so on as in `bytes.decode`.
        Raises ValueError where the ids are not integers in 0 .. vocab_size - 1.
        """
        codecs.lookup_error(errors)
        pieces = (self.vocabulary[token] for token in checked_ids(ids, self.vocab_size).tolist())
        return b"".join(piece if isinstance(piece, bytes) else piece.encode() for piece in pieces).decode(errors=errors)

    def decode_bytes(self, ids):
        """The bytes of some tokens, of which special ones have none.

        decode_bytes(encode_bytes(data)) == data, unless the text is normalized or an added token swallows white space.
        Raises ValueError where the ids are not integers in 0 .. vocab_size - 1.
        """
        return b"".join(map(self.token_bytes, checked_ids(ids, self.vocab_size).tolist()))

    def token_bytes(self, token):
        """The bytes of one token, b"" for a special one. Raises ValueError where it is not in 0 .. vocab_size - 1.

        One token may be half of a character: decode the bytes of several together, or use an incremental decoder.
        """
        token = checked_token(token, self.vocab_size)
        if token in self._special_ids:
            return b""
        piece = self.vocabulary[token]
        return piece if isinstance(piece, bytes) else piece.encode()

    def save(self, path):
        """Write the tokenizer to a JSON file, or to tokenizer.json in `path` where that is a directory.

        The library `tokenizers` opens the file; the counts of the merges lie in it under a key that it ignores.
        """
        write_document(path, to_document(self))

    @classmethod
    def load(cls, path):
        """The tokenizer that `save` or the library `tokenizers` wrote to this file or directory.

        Raises FileNotFoundError where there is none, and ValueError where the file holds something else.
        """
        return cls.from_document(read_document(path), path)

    @classmethod
    def from_document(cls, document, path):
        """The tokenizer in a document that was read from `path`. Raises ValueError where it does not describe one."""
        try:
            return cls(**read_parts(document, path))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def __repr__(self):
        return (f"<BytePairTokenizer of {self.vocab_size} tokens, {len(self._pairs)} of them merges, "
                f"{len(self.special_tokens)} special>")


def merge_by_rank(tokens, merges):
    """Merge pairs of neighbours until none has a merge: always the lowest rank, and of equal ones the leftmost.

    tokens: (T,) one a byte; merges: {(left, right): (rank, merged)}  ->  (U,) tokens, U <= T.

    The pairs wait in a queue, so that T tokens take T log T steps. A merge leaves its piece at the place of the left
    token and None at that of the right one. A pair in the queue may be gone by the time that its turn comes: then what
    stands there now has another rank, or none.
    """
    end = len(tokens)
    tokens = [*tokens, None]
    before, after = list(range(-1, end)), list(range(1, end + 1))               # the places of the neighbours

    def rank_at(place):
        return merges.get((tokens[place], tokens[after[place]]), (None, None))[0]

    queue = [(rank, place) for place in range(end) if (rank := rank_at(place)) is not None]
    heapq.heapify(queue)
    while queue:
        rank, left = heapq.heappop(queue)
        if rank_at(left) != rank:
            continue
        right = after[left]
        _, tokens[left] = merges[tokens[left], tokens[right]]
        tokens[right] = None
        after[left] = after[right]
        before[after[right]] = left
        for place in (before[left], left):
            if place >= 0 and (new_rank := rank_at(place)) is not None:
                heapq.heappush(queue, (new_rank, place))
    return [token for token in tokens if token is not None]


def _as_tokens(tokens, merges):
    """[(left, right)] of bytes  ->  [(left, right, merged)] of tokens."""
    try:
        return [(tokens[left], tokens[right], tokens[left + right]) for left, right in merges]
    except KeyError as error:
        raise ValueError(f"merges: expected pieces of the vocabulary, got {error.args[0]!r}, which is none") from None
