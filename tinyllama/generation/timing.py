"""How long a text takes: until its first token, and from there on."""

import time


class Timing:
    """Watches tokens as they come.

    count: how many have come. reading: seconds until the first, in which the prompt was read. writing: seconds from
    the first to the last.
    """

    def __init__(self):
        self.count, self.reading, self.writing = 0, 0.0, 0.0

    def watch(self, tokens):
        """The same tokens, one after another."""
        start = time.perf_counter()
        for token in tokens:
            seconds = time.perf_counter() - start
            if self.count == 0:
                self.reading = seconds
            self.count, self.writing = self.count + 1, seconds - self.reading
            yield token

    @property
    def rate(self):
        """Tokens a second after the first; 0 where there are no more."""
        return (self.count - 1) / self.writing if self.writing > 0 else 0.0
