"""SentencePiece's merges the slow way, to compare with: every pair is looked at anew before every merge."""


def merge(text, scores, best=lambda score, place: (score, -place)):
    """What `merge_by_score` does without unused pieces. best: the pair with the largest of these is merged."""
    pieces = list(text)
    while True:
        found = [(best(scores[pieces[place] + pieces[place + 1]], place), place) for place in range(len(pieces) - 1)
                 if pieces[place] + pieces[place + 1] in scores]
        if not found:
            return pieces
        _, place = max(found)
        pieces[place:place + 2] = [pieces[place] + pieces[place + 1]]
