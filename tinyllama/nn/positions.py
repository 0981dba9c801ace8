"""How a network knows where a token stands: a rotation, a learned vector, a fixed vector, or nothing."""

import numpy as np

from tinyllama.nn.embedding import Embedding
from tinyllama.nn.layer import Layer
from tinyllama.ops.rope import rope_frequencies


class RotaryTable:
    """cos and sin of the angle position · frequency, for every position and every pair of features: (P, D/2) each.

    Computed in float64 on the host and stored in the model's dtype, when they are first needed, up to the next power of
    two of the positions asked for: a context of 131,072 costs a text of a thousand nothing. Rotates inside attention;
    nothing is learned.
    """

    def __init__(self, positions, head_dim, *, theta, scaling, backend, dtype):
        self.positions, self.head_dim, self.theta, self.scaling = positions, head_dim, theta, scaling
        self.backend, self.dtype = backend, dtype
        self._tables = None                 # one tuple, exchanged at once: other threads see the old one or the new

    def tables(self, rows=None):
        """(cos, sin), (P, D/2) each, for at least the first `rows` positions; None is all positions."""
        rows = self.positions if rows is None else min(rows, self.positions)
        tables = self._tables
        if tables is None or len(tables[0]) < rows:
            tables = self._tables = self._compute(min(1 << max(rows - 1, 0).bit_length(), self.positions))
        return tables

    def at(self, positions, rows=None):
        """The tables at some positions: a slice -> (T, D/2); an array (B, T) -> (B, 1, T, D/2), the 1 for the heads.

        rows: a number above all positions of the array, which may lie on a device; None is that of all positions.
        """
        if isinstance(positions, slice):
            cos, sin = self.tables(positions.stop)
            return cos[positions], sin[positions]
        cos, sin = self.tables(rows)
        return cos[positions][:, None], sin[positions][:, None]

    def _compute(self, rows):
        frequencies = rope_frequencies(self.head_dim, theta=self.theta, scaling=self.scaling)
        angles = np.outer(np.arange(rows), frequencies)                         # (P, D/2)
        return tuple(self.backend.asarray(f(angles).astype(self.dtype)) for f in (np.cos, np.sin))


class LearnedPositions(Layer):
    """Adds a learned vector for each position, as GPT-2 does: the parameter NAME.weight (P, D)."""

    def __init__(self, name, positions, hidden_size, *, std=0.02):
        self.table = Embedding(name, positions, hidden_size, std=std)

    def forward(self, x, positions):
        """x: (B, T, D), positions: (B, T)  ->  y: (B, T, D), cache."""
        vectors, cache = self.table.forward(positions)                  # (B, T) -> (B, T, D)
        return x + vectors, cache

    def backward(self, dy, cache, grads):
        """dy: (B, T, D)  ->  dx: (B, T, D)."""
        self.table.backward(dy, cache, grads)
        return dy


class SinusoidalPositions(Layer):
    """Adds a fixed vector for each position: sines and cosines of its angles. Source: Vaswani et al. 2017, section 3.5.

        vector[p, 2i] = std · sin(p · f[i]),   vector[p, 2i + 1] = std · cos(p · f[i]),   f[i] = 10000^(-2i / D)

    `std` is the size of the token vectors that they are added to.
    """

    def __init__(self, positions, hidden_size, *, std=0.02):
        self.shape, self.std = (positions, hidden_size), std

    def bind(self, parameters, backend):
        """Compute the table in float64 on the host, and move it to the backend, in the dtype of the weights."""
        super().bind(parameters, backend)
        angles = np.outer(np.arange(self.shape[0]), rope_frequencies(self.shape[1]))            # (P, D/2)
        table = self.std * np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(self.shape)
        self.vectors = backend.asarray(table.astype(parameters.dtype))

    def forward(self, x, positions):
        """x: (B, T, D), positions: (B, T)  ->  y: (B, T, D), cache."""
        return x + self.vectors[positions], None

    def backward(self, dy, cache, grads):
        """dy: (B, T, D)  ->  dx: (B, T, D)."""
        return dy
