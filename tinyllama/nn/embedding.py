"""Tables of vectors: one row for each token, or for each position."""

from tinyllama.nn.layer import Layer
from tinyllama.nn.parameters import Declaration
from tinyllama.ops.quantized_linear import Quantized


class Embedding(Layer):
    """y = weight[ids], with the parameter NAME.weight (V, D)."""

    def __init__(self, name, rows, hidden_size, *, std=0.02):
        self.weight, self.shape, self.std = f"{name}.weight", (rows, hidden_size), std

    def own_declarations(self):
        """The table."""
        return [Declaration(self.weight, self.shape, std=self.std)]

    def forward(self, ids):
        """ids: (...)  ->  y: (..., D), cache. There is no cache, and no backward, where the table is quantised."""
        weight = self.parameters[self.weight]
        if isinstance(weight, Quantized):
            return self.ops.dequantize(weight, ids), None               # (...) -> (..., D)
        return self.ops.embedding_forward(ids, weight)

    def backward(self, dy, cache, grads):
        """dy: (..., D)  ->  nothing, because ids have no gradient."""
        if self.weight in grads:
            grads.add(self.weight, self.ops.embedding_backward(dy, cache))
