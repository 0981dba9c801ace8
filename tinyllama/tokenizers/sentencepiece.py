"""SentencePiece-style byte-pair encoding: the tokenizers of Llama 1 and 2, Mistral, TinyLlama and llama2.c."""

import codecs
import functools
from itertools import chain

import numpy as np

from tinyllama.tokenizers.added_tokens import AddedToken, AddedTokens
from tinyllama.tokenizers.arguments import checked_ids, checked_token, encoded
from tinyllama.tokenizers.bpe import Merge, merge_by_rank
from tinyllama.tokenizers.files import read_document, write_document
from tinyllama.tokenizers.merge_by_score import merge_by_score, ranked_pairs
from tinyllama.tokenizers.pieces import BYTE_PIECES, Kind, check_pieces
from tinyllama.tokenizers.sentencepiece_json import read_parts, to_document
from tinyllama.tokenizers.spaces import MARK, Spaces
from tinyllama.tokenizers.word_cache import WordCache


class SentencePieceTokenizer:
    """Pieces of characters, merged by their scores or by ranks: token i stands for `pieces[i]`.

    Every space of a text becomes ▁, and one more is put before the text. The text is cut into characters. Then, of all
    the pairs of neighbours that are a piece together, the one with the highest score becomes that piece, the leftmost
    of equal ones first, again and again until there is none. A character that is no piece becomes the tokens of its
    UTF-8 bytes, or the unknown token where the vocabulary has no bytes. Source: Kudo & Richardson 2018, section 3; ties
    and bytes are those of the library `sentencepiece`.

    pieces: a `Piece` for each token.
    merges: None, or [(left, right)] in the order of their ranks. Then only these pairs are merged, and the one with the
    lowest rank comes first, as in a tokenizer.json.
    spaces: the rules for spaces.
    added_tokens: an `AddedToken` for each token that is looked for by its name before spaces are marked. User-defined
    pieces that are not among them are looked for after that.
    bos_token_id, eos_token_id: the special tokens that begin and end a text, if there are such.
    unknown_text: what decoding writes for the unknown token.
    whole_words: a text, or a word where spaces split it, that is a piece is that token, wherever merges lead.

    Raises ValueError where these do not fit together.
    """

    CACHED_WORDS = 1 << 17

    def __init__(self, pieces, *, merges=None, spaces=None, added_tokens=(), bos_token_id=None, eos_token_id=None,
                 unknown_text=" ⁇ ", whole_words=False):
        self.pieces = list(pieces)
        self.pairs = list(merges) if merges is not None else None
        self.spaces = spaces or Spaces()
        self.added_tokens = list(added_tokens)
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        self.unknown_text = unknown_text
        self.whole_words = whole_words
        check_pieces(self.pieces)
        self.spaces.check()
        self.special_tokens = self._of_kind(Kind.CONTROL, Kind.UNKNOWN)
        self._tokens = self._of_kind(Kind.NORMAL, Kind.UNUSED)
        of_bytes = {BYTE_PIECES[text]: token for text, token in self._of_kind(Kind.BYTE).items()}
        self._byte_tokens = [of_bytes[byte] for byte in sorted(of_bytes)]
        self._unknown = next(iter(self._of_kind(Kind.UNKNOWN).values()), None)
        self._bytes = [self._bytes_of(piece) for piece in self.pieces]
        self._check_names()
        self._raw_names, self._marked_names = self._name_finders()
        self._merge, made = self._by_score() if merges is None else self._by_rank()
        self._may_cut = not any(MARK in text.lstrip(MARK) for text in made)
        self._words = WordCache(self._encode_word, self.CACHED_WORDS)

    def _of_kind(self, *kinds):
        return {piece.text: token for token, piece in enumerate(self.pieces) if piece.kind in kinds}

    def _bytes_of(self, piece):
        if piece.kind == Kind.CONTROL:
            return b""
        if piece.kind == Kind.BYTE:
            return bytes([BYTE_PIECES[piece.text]])
        text = self.unknown_text if piece.kind == Kind.UNKNOWN else piece.text.replace(MARK, " ")
        return text.encode()

    def _check_names(self):
        for name in ("bos_token_id", "eos_token_id"):
            token = getattr(self, name)
            if token is not None and (isinstance(token, bool) or token not in self.special_tokens.values()):
                raise ValueError(f"{name}: expected None or one of the special tokens {self.special_tokens}, "
                                 f"got {token!r}")
        if len({added.token for added in self.added_tokens}) < len(self.added_tokens):
            raise ValueError("added_tokens: expected distinct tokens, got one more than once")
        for added in self.added_tokens:
            if not 0 <= added.token < self.vocab_size or self.pieces[added.token].text != added.text:
                raise ValueError(f"added_tokens: expected the token of a piece and its text, got {added}")

    def user_defined(self):
        """User-defined pieces that are not among the added tokens, as such: they are looked for once spaces are marked.
        """
        added = {added.token for added in self.added_tokens}
        return [AddedToken(text, token, special=False, normalized=True)
                for text, token in self._of_kind(Kind.USER_DEFINED).items() if token not in added]

    def _name_finders(self):
        """What finds names in a text as it came, and in a normalized one."""
        normalized = [added._replace(text=self.spaces.normalize(added.text))
                      for added in self.added_tokens if added.normalized]
        return (AddedTokens([added for added in self.added_tokens if not added.normalized]),
                AddedTokens(normalized + self.user_defined()))

    def _by_score(self):
        """The function that merges the characters of a word, and the texts that it can make."""
        scores = {piece.text: piece.score for piece in self.pieces if piece.kind in (Kind.NORMAL, Kind.UNUSED)}
        unused = frozenset(self._of_kind(Kind.UNUSED))
        return functools.partial(merge_by_score, scores=scores, unused=unused), scores

    def _by_rank(self):
        ranks = {}
        for rank, (left, right) in enumerate(self.pairs):
            for text in (left, right, left + right):
                if text not in self._tokens:
                    raise ValueError(f"merges: expected normal pieces, got {text!r} in {left!r} {right!r}")
            ranks[left, right] = rank, left + right
        if len(ranks) < len(self.pairs):
            raise ValueError(f"merges: expected {len(self.pairs)} distinct pairs, got {len(ranks)}")
        return functools.partial(merge_by_rank, merges=ranks), [merged for _, merged in ranks.values()]

    @property
    def vocab_size(self):
        """How many tokens there are, special ones included."""
        return len(self.pieces)

    @functools.cached_property
    def merges(self):
        """The merges by rank: a list of `Merge`, without counts. From scores, it holds every way to make a piece."""
        pairs = self.pairs if self.pairs is not None else ranked_pairs(self.pieces)
        parts = [[text.replace(MARK, " ").encode() for text in (left, right, left + right)] for left, right in pairs]
        return [Merge(rank, *texts, None) for rank, texts in enumerate(parts)]

    def encode(self, text, bos=False, *, allow_special=False):
        """The tokens of `text` as a list of int, after the one that begins a text if `bos`.

        The name of a special token in `text` is text like any other, so that what a stranger writes can never end a
        document. With allow_special=True it becomes that token, and what stands between two is encoded as a text of
        its own.

        Raises ValueError for a lone surrogate, and for bos=True where there is no such token.
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

    def encode_masked(self, text, hidden):
        """The tokens of a text in which some characters are hidden from the search for added tokens.

        hidden: {code point: character}; where such a code point stands, that character is meant. Special tokens are
        found, but none that would need a hidden character.
        """
        return list(chain.from_iterable(self._encode_parts(text, True, hidden)))

    def _encode_parts(self, text, allow_special, hidden=None):
        """An iterator over the tokens of each part of `text`."""
        is_first = True
        for raw in self._raw_names.split(text, allow_special):
            named = isinstance(raw, AddedToken)
            for part in [raw] if named else self._marked_names.split(self.spaces.normalize(raw), allow_special):
                if isinstance(part, AddedToken):
                    yield (part.token,)
                else:
                    yield self._encode_stretch(self.spaces.mark(part.translate(hidden) if hidden else part, is_first))
                is_first = False

    def _encode_stretch(self, stretch):
        """An iterable over the tokens of a stretch that has its marks and holds no name of a token."""
        if self.whole_words and not self.spaces.split and stretch in self._tokens:
            return (self._tokens[stretch],)
        tokens = chain.from_iterable(map(self._words.__getitem__, self.spaces.words(stretch, self._may_cut)))
        return tokens if self._byte_tokens else self._one_unknown_a_run(tokens)

    def _encode_word(self, word):
        """The tokens of one word as a tuple."""
        if self.whole_words and self.spaces.split and word in self._tokens:
            return (self._tokens[word],)
        tokens = []
        for piece in self._merge(word):
            if piece in self._tokens:
                tokens.append(self._tokens[piece])
            elif self._byte_tokens:
                tokens += [self._byte_tokens[byte] for byte in piece.encode()]
            else:
                tokens.append(self._unknown)
        return tuple(tokens)

    def _one_unknown_a_run(self, tokens):
        previous = None
        for token in tokens:
            if token != self._unknown or previous != self._unknown:
                yield token
            previous = token

    def decode(self, ids, errors="replace"):
        """The text of some tokens, special ones written by their names. Its first space is left out, if it was put
        there.

        ids: (T,) integers in an array, a list or whatever yields them, or one integer  ->  str.
        errors: what becomes of bytes that are no text in UTF-8, as when a character is cut in half: "replace" puts
        U+FFFD there, "strict" raises UnicodeDecodeError, and so on as in `bytes.decode`.
        Raises ValueError where the ids are not integers in 0 .. vocab_size - 1.
        """
        codecs.lookup_error(errors)
        return b"".join(self._decoded(ids, with_names=True)).decode(errors=errors)

    def decode_bytes(self, ids):
        """The bytes of the text of some tokens, of which special ones have none. Raises what `decode` raises."""
        return b"".join(self._decoded(ids, with_names=False))

    def _decoded(self, ids, with_names):
        """An iterator over the bytes of each token, but for the space that begins the text."""
        begins = self.spaces.drop_first
        for token in checked_ids(ids, self.vocab_size).tolist():
            data, kind = self._bytes[token], self.pieces[token].kind
            if kind == Kind.CONTROL:
                data = self.pieces[token].text.encode() if with_names else b""
            elif begins:
                has_space = data.startswith(b" ") and kind not in (Kind.BYTE, Kind.UNKNOWN)
                data = data[1:] if has_space else data
                # a text without extra spaces does not begin with a second one either
                begins = has_space and not data and self.spaces.remove_extra
            yield data

    def token_bytes(self, token):
        """The bytes of one token, b"" for a special one. Raises ValueError where it is not in 0 .. vocab_size - 1.

        The bytes of the tokens of a text, joined, are that text with a space before it if `spaces.drop_first`: in the
        middle of a text, where generation goes on, that space is part of it. One token may be half of a character.
        """
        return self._bytes[checked_token(token, self.vocab_size)]

    def save(self, path):
        """Write the tokenizer to a JSON file, or to tokenizer.json in `path` where that is a directory.

        The library `tokenizers` opens the file; what its format has no place for lies in it under a key that it
        ignores, see `sentencepiece_json`.
        """
        write_document(path, to_document(self))

    @classmethod
    def load(cls, path):
        """The tokenizer in a tokenizer.json of this kind, or in that of a directory.

        Raises FileNotFoundError where there is none, and ValueError where the file holds something else.
        """
        return cls.from_document(read_document(path), path)

    @classmethod
    def from_document(cls, document, path):
        """The tokenizer in a JSON document that was read from `path`. Raises ValueError where it describes none."""
        try:
            return cls(**read_parts(document, path))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def __repr__(self):
        return (f"<SentencePieceTokenizer of {self.vocab_size} tokens, {len(self.special_tokens)} special, "
                f"merged by {'score' if self.pairs is None else 'rank'}>")
