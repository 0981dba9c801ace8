"""How a network knows where a token stands: a rotation, a learned vector, a fixed vector, or nothing."""

import numpy as np

from tinyllama.nn.embedding import Embedding
from tinyllama.nn.layer import Layer
from tinyllama.ops.rope import rope_frequencies


class RotaryTable:
    """cos and sin of the angle position · frequency, for every position and every pair of features: (P, D/2) each.

    Computed in float64 on the host and stored in the model's dtype. Rotates inside attention; nothing is learned.
    """

    def __init__(self, positions, head_dim, *, theta, scaling, backend, dtype):
        angles = np.outer(np.arange(positions), rope_frequencies(head_dim, theta=theta, scaling=scaling))    # (P, D/2)
        self.cos = backend.asarray(np.cos(angles).astype(dtype))
        self.sin = backend.asarray(np.sin(angles).astype(dtype))

    def at(self, positions):
        """The tables at some positions: a slice -> (T, D/2); an array (B, T) -> (B, 1, T, D/2), the 1 for the heads."""
        if isinstance(positions, slice):
            return self.cos[positions], self.sin[positions]
        return self.cos[positions][:, None], self.sin[positions][:, None]


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
        angles = np.outer(np.arange(positions), rope_frequencies(hidden_size))                  # (P, D/2)
        self.table = std * np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(positions, hidden_size)

    def bind(self, parameters, backend):
        """Move the table to the backend, in the dtype of the weights."""
        super().bind(parameters, backend)
        self.vectors = backend.asarray(self.table.astype(parameters.dtype))

    def forward(self, x, positions):
        """x: (B, T, D), positions: (B, T)  ->  y: (B, T, D), cache."""
        return x + self.vectors[positions], None

    def backward(self, dy, cache, grads):
        """dy: (B, T, D)  ->  dx: (B, T, D)."""
        return dy
