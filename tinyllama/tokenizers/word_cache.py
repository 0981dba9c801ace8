"""The tokens of words that were met before."""


class WordCache(dict):
    """{word: its tokens}, filled by `encode_word`. Text repeats its words, and most need their merges only once."""

    def __init__(self, encode_word, size):
        self.encode_word = encode_word
        self.size = size

    def __missing__(self, word):
        if len(self) >= self.size:
            self.clear()        # rather than let a stream of text fill the memory
        tokens = self[word] = self.encode_word(word)
        return tokens
