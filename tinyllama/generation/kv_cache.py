"""The keys and values of all tokens so far, so that the next token needs only its own."""

import numpy as np


class KVCache:
    """Keys and values of every layer, for a batch whose rows may have different lengths.

    `lengths` (B,) counts, on the host, the tokens that each row holds. A pass begins with `start(counts)`, in which
    each layer's attention calls `write` once, and ends with `finish()`. Memory: 2 · layers · B · KV · capacity · D
    numbers.
    """

    def __init__(self, backend, *, layers, batch_size, key_value_heads, capacity, head_dim, dtype):
        shape = (layers, batch_size, key_value_heads, capacity, head_dim)
        self.backend, self.capacity = backend, capacity
        self.keys, self.values = backend.xp.zeros(shape, dtype=dtype), backend.xp.zeros(shape, dtype=dtype)
        self.lengths = np.zeros(batch_size, dtype=np.int64)

    def start(self, width, counts):
        """Announce `width` tokens for every row, of which the first `counts` (B,) are real.

        Returns (positions, query_start, key_length) for the pass: numbers and a slice while all rows are alike, arrays
        (B, T), (B,) and (B,) otherwise. A padding token that would fall beyond the end is written over the last place,
        which only a row that has ended can have filled.
        """
        self._counts = counts
        if (self.lengths == self.lengths[0]).all() and (counts == width).all():
            start = int(self.lengths[0])
            self._positions, self._end = slice(start, start + width), start + width
            return self._positions, start, start + width
        positions = np.minimum(self.lengths[:, None] + np.arange(width), self.capacity - 1)     # (B, T)
        # One upload for all three: the positions, the starts and the lengths stand side by side.
        packed = np.concatenate([positions, self.lengths[:, None], (self.lengths + counts)[:, None]], axis=1)
        packed = self.backend.asarray(packed)                                                   # (B, T + 2)
        self._positions, self._end = packed[:, :width], int(positions.max()) + 1
        return self._positions, packed[:, width], packed[:, width + 1]

    def write(self, layer, k, v):
        """Store the new keys and values of a layer; returns all of them so far.

        k, v: (B, KV, T, D)  ->  (B, KV, past + T, D) twice.
        """
        for stored, new in ((self.keys[layer], k), (self.values[layer], v)):
            if isinstance(self._positions, slice):
                stored[:, :, self._positions] = new
            else:
                rows = self.backend.xp.arange(len(self.lengths))[:, None]                       # (B, 1)
                stored[rows, :, self._positions] = new.transpose(0, 2, 1, 3)                    # (B, T, KV, D)
        return self.keys[layer][:, :, :self._end], self.values[layer][:, :, :self._end]

    def keep(self, count):
        """Forget all but the first `count` tokens of every row."""
        self.lengths = np.minimum(self.lengths, count)

    def take_over(self, smaller):
        """Hold what a smaller cache of the same model holds."""
        self.keys[:, :, :, :smaller.capacity] = smaller.keys
        self.values[:, :, :, :smaller.capacity] = smaller.values
        self.lengths = smaller.lengths

    def finish(self):
        """Count the tokens that `start` announced as held."""
        self.lengths = self.lengths + self._counts
