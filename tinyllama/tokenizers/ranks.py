"""Tokenizers in the format of the library `tiktoken`, as Llama 3's tokenizer.model: a line for each piece.

    IQ== 0
    Ig== 1

The first part is the bytes of the piece in base64, the second its rank, which is its token too. There are no merges in
it. Of all the pairs of neighbours whose bytes joined are a piece, tiktoken merges the one whose joined piece has the
lowest rank, the leftmost of equal ones first; a word that is a piece needs no merges. How a text is cut into words and
which special tokens follow is in the program that reads the file: here, Llama 3's (meta-llama/llama3,
llama/tokenizer.py).

The merges can be had from the ranks. Let the word that is a piece's own bytes be merged as tiktoken does it, and look
at the last merge. In any other word this piece can come from no other pair: while its two parts grow, no merge crosses
the ends of the piece, so that what happens between them is what happens in the word of its own, step by step. Hence
there is one merge at most for each piece, in the order of the pieces.
"""

import base64
import binascii
from pathlib import Path

from tinyllama.tokenizers.bpe import BytePairTokenizer, merge_by_rank
from tinyllama.tokenizers.patterns import LLAMA3

LONGEST_PIECE = 1024        # bytes. Llama 3's longest is 128 spaces

LLAMA3_SPECIAL_TOKENS = (
    "<|begin_of_text|>", "<|end_of_text|>", *(f"<|reserved_special_token_{i}|>" for i in range(4)),
    "<|start_header_id|>", "<|end_header_id|>", "<|reserved_special_token_4|>", "<|eot_id|>",
    *(f"<|reserved_special_token_{i}|>" for i in range(5, 251)))


def looks_like_ranks(head):
    """Whether the first bytes of a file are those of such a file: "base64 0" and the end of a line."""
    piece, space, rest = head.partition(b" ")
    return bool(space) and rest.startswith((b"0\n", b"0\r\n")) and _bytes(piece) is not None


def read_ranks(path, *, patterns=LLAMA3.patterns, special_tokens=LLAMA3_SPECIAL_TOKENS,
               bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>"):
    """The tokenizer in such a file; the defaults are Llama 3's.

    special_tokens: their names, in the order of their tokens, which follow the ranks. bos_token, eos_token: which of
    them begin and end a text, or None. Raises ValueError where the file holds something else.
    """
    try:
        pieces = _pieces(Path(path).read_bytes())
        return BytePairTokenizer(
            [*pieces, *special_tokens], merges_of_ranks(pieces), patterns=patterns, whole_words=True,
            bos_token_id=None if bos_token is None else len(pieces) + list(special_tokens).index(bos_token),
            eos_token_id=None if eos_token is None else len(pieces) + list(special_tokens).index(eos_token),
            adds_bos=bos_token is not None)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def merges_of_ranks(pieces):
    """[(left, right)] by rank.  pieces: [bytes], each at the place of its rank."""
    joined = _Joined(pieces)
    merges = []
    for rank, piece in enumerate(pieces):
        splits = [(piece[:at], piece[at:]) for at in range(1, len(piece))
                  if piece[:at] in joined.ranks and piece[at:] in joined.ranks]
        if len(splits) > 1:
            splits = _last_merge(piece, rank, joined)
        merges += splits
    return merges


def _last_merge(piece, rank, joined):
    """[(left, right)] that make the piece in the end, [] where its bytes end as other pieces."""
    joined.forbidden = rank
    parts = merge_by_rank([piece[at:at + 1] for at in range(len(piece))], joined)
    return [tuple(parts)] if len(parts) == 2 else []


class _Joined:
    """What `merge_by_rank` asks for, of bytes: {(left, right): (rank, left + right)}, but for the forbidden rank."""

    def __init__(self, pieces):
        self.ranks = {piece: rank for rank, piece in enumerate(pieces)}
        self.forbidden = None

    def get(self, pair, default):
        rank = self.ranks.get(pair[0] + pair[1]) if None not in pair else None
        return default if rank is None or rank == self.forbidden else (rank, pair[0] + pair[1])

    def __getitem__(self, pair):
        return self.get(pair, None)


def _pieces(data):
    """[bytes], each at the place of its rank."""
    ranks = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        encoded, _, rank = line.rstrip(b"\r").partition(b" ")
        piece = _bytes(encoded)
        if not piece or not rank.isdigit() or len(rank) > 9:
            raise ValueError(f'line {number}: expected "base64 rank", got {line[:60]!r}')
        if len(piece) > LONGEST_PIECE:
            raise ValueError(f"line {number}: expected a piece of at most {LONGEST_PIECE} bytes, got {len(piece)}")
        if ranks.setdefault(int(rank), piece) is not piece:
            raise ValueError(f"line {number}: expected distinct ranks, got {int(rank)} more than once")
    if sorted(ranks) != list(range(len(ranks))) or not ranks:
        raise ValueError(f"expected the ranks from 0 on, each once, got {len(ranks)} of them, the highest "
                         f"{max(ranks, default=None)}")
    missing = {bytes([byte]) for byte in range(256)} - set(ranks.values())
    if missing:
        raise ValueError(f"expected all 256 bytes among the pieces, got none for {min(missing)!r}")
    return [ranks[rank] for rank in range(len(ranks))]


def _bytes(encoded):
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return None
