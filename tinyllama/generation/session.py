"""A text that grows in several goes, as a conversation does: what a model has read of it, it need not read again."""

import numpy as np

FIRST_CAPACITY = 512        # tokens; a cache for more is made when they come, because most texts are short


class Session:
    """The tokens whose keys and values lie in a cache of one row, and the step that reads more of them.

    make(capacity) -> (step, kv_cache): a step for a single row, as `generate` wants it, and the `KVCache` that it
    writes to. capacity: how many tokens there may ever be.
    tokens: what the cache holds. It is always a beginning of the text that was generated last, also where that was
    interrupted in the middle of a step.
    """

    def __init__(self, make, capacity):
        self._make, self.capacity, self._reader = make, capacity, None
        self._current = make(min(capacity, FIRST_CAPACITY))     # one pair, so that the two always belong together
        self.tokens = []

    def common(self, ids):
        """How many of the tokens `ids` need not be read: those with which it begins as the text that is held does.

        The last one is always read, because the logits after it are wanted.
        """
        pairs = zip(self.tokens, ids[:-1], strict=False)
        return next((i for i, (held, token) in enumerate(pairs) if held != token),
                    min(len(self.tokens), len(ids) - 1))

    def new_step(self):
        """A step(ids, counts) for `generate`, which is first given a text from its beginning, and then what follows.

        It raises RuntimeError once another step of the session has begun.
        """
        is_beginning = True

        def step(ids, counts):
            nonlocal is_beginning
            if self._reader is not step:
                raise RuntimeError("session: expected one text at a time, got another before this one had ended")
            new = ids[0].tolist()                                               # (1, T)
            if is_beginning:
                self.tokens, is_beginning = self.tokens[:self.common(new)], False
                new = new[len(self.tokens):]
            self._current[1].keep(len(self.tokens))
            self._make_room(len(self.tokens) + len(new))
            logits = self._current[0](np.array([new]), np.array([len(new)]))    # (1, V)
            self.tokens += new      # last: an interrupted step has written keys that no token here stands for
            return logits

        self._reader = step
        return step

    def _make_room(self, count):
        """Have a cache for `count` tokens, at least twice as large as the last where that was too small."""
        kv_cache = self._current[1]
        if count > kv_cache.capacity:
            larger = self._make(min(self.capacity, max(count, 2 * kv_cache.capacity)))
            larger[1].take_over(kv_cache)
            self._current = larger
