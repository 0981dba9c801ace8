"""Training byte-level BPE: which merges a text earns, and the tokenizer that they make."""

import heapq
import operator
from collections import Counter, defaultdict
from itertools import pairwise

from tinyllama.tokenizers.arguments import encoded
from tinyllama.tokenizers.bpe import BytePairTokenizer, Merge
from tinyllama.tokenizers.byte_level import ALPHABET, split_words


def train_tokenizer(text, vocab_size=4096, *, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>",
                    special_tokens=()):
    """A byte-level BPE tokenizer of `vocab_size` tokens, learned from a text.

    text: a str, or an iterable of str: documents, which are counted together but never merged across.
    bos_token, eos_token, special_tokens: the names of the tokens that begin and end a text, None for no such token,
    and of further special ones. They have the first ids, the 256 bytes the next, and the merges the rest.

    The same text gives the same merges in the same order as the BpeTrainer of the library `tokenizers`.

    Raises ValueError where vocab_size is below what the bytes and the special tokens need or above what the text
    supports, or where the text is empty or holds a lone surrogate.
    """
    special = list(dict.fromkeys(token for token in (bos_token, eos_token, *special_tokens) if token is not None))
    smallest = len(special) + len(ALPHABET)
    if operator.index(vocab_size) < smallest:
        raise ValueError(f"vocab_size: expected at least {smallest}, for 256 bytes and {len(special)} special tokens, "
                         f"got {vocab_size}")
    merges = train_merges(count_words(text), vocab_size - smallest)
    if smallest + len(merges) < vocab_size:
        raise ValueError(f"vocab_size: expected at most {smallest + len(merges)}, since after {len(merges)} merges "
                         f"every word of this text is one piece, got {vocab_size}")
    return BytePairTokenizer(
        [*special, *(bytes([byte]) for byte in ALPHABET), *(merge.merged for merge in merges)],
        [(merge.left, merge.right) for merge in merges], counts=[merge.count for merge in merges],
        bos_token_id=None if bos_token is None else special.index(bos_token),
        eos_token_id=None if eos_token is None else special.index(eos_token))


def count_words(text):
    """How often each word occurs: {word: count}.

    text: a str or an iterable of str. Raises TypeError where it is neither, and ValueError where it is empty or holds
    a lone surrogate.
    """
    if isinstance(text, bytes) or not hasattr(text, "__iter__"):
        raise TypeError(f"text: expected a str or an iterable of str, got {type(text).__name__}")
    words = Counter()
    for number, document in enumerate([text] if isinstance(text, str) else text):
        encoded(document, "utf-8", name="text" if isinstance(text, str) else f"text: document {number}")
        words.update(split_words(document))
    if not words:
        raise ValueError("text: expected at least one character to train on, got an empty text")
    return words


def train_merges(words, limit):
    """The merges that some words earn, at most `limit` of them.

    words: {word: count}  ->  [Merge], each with the count that earned it.

    Every round merges the pair of neighbours that occurs most often, everywhere; of equally frequent ones the first in
    the order of the vocabulary, the left piece compared before the right one. "Occurs" counts every place where the two
    are neighbours: "aaa" holds the pair (a, a) twice, although only one of the two can be merged.

    To recount after every merge would take minutes. Instead three things are kept: the count of every pair, the words
    that hold it, and a queue with the most frequent pair in front. A merge changes the counts of its neighbours only.
    Counts in the queue may therefore be too high: a pair whose count has changed goes back into the queue when its turn
    comes. They are never too low. A merge always makes a new piece, for a stretch of bytes that ends as one piece goes
    through the same merges wherever it stands; so a pair gets all its occurrences in the one round that makes one of
    its pieces, and is put in the queue at the end of that round.
    """
    pieces = [bytes([byte]) for byte in ALPHABET]
    number = bytes(map(ALPHABET.index, range(256)))                     # byte -> its place in the alphabet
    sequences = [list(word.encode().translate(number)) for word in words]
    frequencies = list(words.values())
    counts, holders = _count_pairs(sequences, frequencies)
    queue = [(-count, pair) for pair, count in counts.items()]          # the smallest entry comes first
    heapq.heapify(queue)
    merges = []
    while queue and len(merges) < limit:
        count, pair = heapq.heappop(queue)
        if -count != counts[pair]:
            _put(queue, counts, pair)
            continue
        left, right = pair
        new = len(pieces)
        pieces.append(pieces[left] + pieces[right])
        merges.append(Merge(len(merges), pieces[left], pieces[right], pieces[new], counts[pair]))
        made = set()
        for index in dict.fromkeys(holders.pop(pair)):      # a word with many of the pair is there many times
            for old_pair, new_pair in _replace(sequences[index], pair, new):
                counts[old_pair] -= frequencies[index]
                counts[new_pair] += frequencies[index]
                holders[new_pair].append(index)
                made.add(new_pair)
        del counts[pair]
        for new_pair in made:
            _put(queue, counts, new_pair)
    return merges


def _count_pairs(sequences, frequencies):
    """How often each pair of neighbours occurs, and in which words: {pair: count}, {pair: [index of a word]}."""
    counts, holders = defaultdict(int), defaultdict(list)
    for index, (sequence, frequency) in enumerate(zip(sequences, frequencies, strict=True)):
        for pair in pairwise(sequence):
            counts[pair] += frequency
            holders[pair].append(index)
    return counts, holders


def _put(queue, counts, pair):
    """Put a pair in the queue with its count of now, unless it is gone."""
    if counts[pair]:
        heapq.heappush(queue, (-counts[pair], pair))


def _replace(sequence, pair, new):
    """Replace every occurrence of the pair by the piece `new`, from left to right, in place.

    Yields, for each neighbour of an occurrence, the pair that ends there and the one that takes its place:
        ... x a b y ...   ->   ... x ab y ...           (x, a), (x, ab)   and   (b, y), (ab, y)
    """
    left, right = pair
    end, read, written = len(sequence), 0, 0        # one pass, however long the word is
    while read < end:
        piece = sequence[read]
        read += 1
        if piece == left and read < end and sequence[read] == right:
            read += 1
            if written > 0:
                yield (sequence[written - 1], left), (sequence[written - 1], new)
            if read < end:
                yield (right, sequence[read]), (new, sequence[read])
            piece = new
        sequence[written] = piece
        written += 1
    del sequence[written:]
