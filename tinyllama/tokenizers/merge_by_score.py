"""SentencePiece's rule: of all pairs of neighbours that are a piece, merge the one with the highest score."""

import heapq

from tinyllama.tokenizers.pieces import Kind


def merge_by_score(text, scores, unused=frozenset()):
    """Merge characters until no two neighbours are a piece: always the highest score, and of equal ones the leftmost.

    text: T characters; scores: {text of a piece: score}  ->  [text of a piece or a character], U <= T of them.
    unused: pieces that are taken apart again at the end, into the two that they were made of.

    The pairs wait in a queue, so that T characters take T log T steps. A merge leaves its piece at the place of the
    left part and "" at that of the right one. A pair in the queue may be gone by the time that its turn comes: then
    what stands there now spells something else.
    """
    end = len(text)
    pieces = [*text, ""]
    before, after = list(range(-1, end)), list(range(1, end + 1))               # the places of the neighbours
    queue, parts = [], {}

    def consider(left):
        joined = pieces[left] + pieces[after[left]]
        if joined in scores and after[left] < end:
            heapq.heappush(queue, (-scores[joined], left, joined))

    for place in range(end):
        consider(place)
    while queue:
        _, left, joined = heapq.heappop(queue)
        right = after[left] if pieces[left] else end
        if right == end or pieces[left] + pieces[right] != joined:
            continue
        if joined in unused:
            parts[joined] = pieces[left], pieces[right]
        pieces[left], pieces[right] = joined, ""
        after[left] = after[right]
        before[after[right]] = left
        if before[left] >= 0:
            consider(before[left])
        consider(left)
    merged = [piece for piece in pieces if piece]
    return [part for piece in merged for part in _taken_apart(piece, parts)] if parts else merged


def _taken_apart(piece, parts):
    """The piece as a list, or the parts of its parts where it is not to be used."""
    if piece not in parts:
        return [piece]
    return [part for half in parts[piece] for part in _taken_apart(half, parts)]


def ranked_pairs(pieces):
    """The merges that could make the pieces, in the order of the scores: [(left, right)].

    Of the several ways to cut a piece in two, at most one is ever met. Where the two parts stand side by side, nothing
    has been merged across their ends so far; so they went through the merges of this stretch of text alone, in the same
    order as anywhere else. Hence the order among these ways does not matter, and a list without ties does what scores
    do, unless two pieces have the same score.
    """
    texts = {piece.text for piece in pieces if piece.kind == Kind.NORMAL}
    by_score = sorted((piece for piece in pieces if piece.kind == Kind.NORMAL), key=lambda piece: -piece.score)
    return [(text[:cut], text[cut:]) for text, *_ in by_score for cut in range(1, len(text))
            if text[:cut] in texts and text[cut:] in texts]
