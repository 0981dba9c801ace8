"""Byte-pair encoding the slow way, to compare with: everything is counted anew before every merge.

It shares nothing with the library but the pattern. Its rules can be exchanged one by one, to plant mistakes.
"""

from collections import Counter
from itertools import pairwise

import regex

from tinyllama.tokenizers.byte_level import GPT2_PATTERN

VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
ORDER = VISIBLE + [byte for byte in range(256) if byte not in VISIBLE]
BYTES = [bytes([byte]) for byte in range(256)]


def words_of(documents):
    """{tuple of single bytes: how often it occurs}."""
    words = (word.encode() for document in documents for word in regex.findall(GPT2_PATTERN, document))
    return Counter(tuple(BYTES[byte] for byte in word) for word in words)


def neighbours(word):
    return pairwise(word)


def first_of_the_most_frequent(counts, number):
    return min(counts, key=lambda pair: (-counts[pair], number[pair[0]], number[pair[1]]))


def replaced(word, pair):
    """The word with every occurrence of the pair, from left to right, as one piece."""
    out = []
    for piece in word:
        if out and (out[-1], piece) == pair and not isinstance(out[-1], Fresh):
            out[-1] = Fresh(out[-1] + piece)
        else:
            out.append(piece)
    return tuple(bytes(piece) for piece in out)


class Fresh(bytes):
    """A piece that was merged in this round, and may not be merged again in it."""


def train(documents, limit, *, words_of=words_of, neighbours=neighbours, choose=first_of_the_most_frequent,
          replaced=replaced):
    """[(left, right, count)] of the first `limit` merges, or of as many as there are."""
    words = words_of(documents)
    number = {BYTES[byte]: place for place, byte in enumerate(ORDER)}
    merges = []
    while len(merges) < limit:
        counts = Counter()
        for word, frequency in words.items():
            for pair in neighbours(word):
                counts[pair] += frequency
        if not counts:
            break
        pair = choose(counts, number)
        merges.append((*pair, counts[pair]))
        number.setdefault(pair[0] + pair[1], len(number))
        merged = Counter()
        for word, frequency in words.items():
            merged[replaced(word, pair)] += frequency
        words = merged
    return merges


def merge_by_rank(tokens, merges):
    """What `tinyllama.tokenizers.bpe.merge_by_rank` does, one merge after the other."""
    tokens = list(tokens)
    while True:
        mergeable = [(merges[pair], place) for place, pair in enumerate(pairwise(tokens)) if pair in merges]
        if not mergeable:
            return tokens
        (_, merged), place = min(mergeable)
        tokens[place:place + 2] = [merged]
