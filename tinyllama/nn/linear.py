"""A linear layer, which may be several that share an input."""

from tinyllama.nn.layer import Layer
from tinyllama.nn.parameters import Declaration
from tinyllama.ops.quantized_linear import Quantized


class Linear(Layer):
    """y = x @ weightᵀ + bias, with the parameters NAME.weight (O, I) and NAME.bias (O,).

    parts: {name: rows} makes one product of several layers with the same input. Their weights are parameters of their
    own (PREFIX.q_proj.weight, ...) and lie next to each other; NAME.weight is the view of them all.
    """

    def __init__(self, name, in_features, out_features, *, bias=False, std=0.02, parts=None):
        self.weight, self.bias = f"{name}.weight", f"{name}.bias" if bias else None
        self.shape, self.std = (out_features, in_features), std
        self.parts = parts or {}

    def own_declarations(self):
        """The weight, and the bias where there is one; biases begin at 0 and do not decay."""
        declared = [Declaration(self.weight, self.shape, std=self.std, parts=self._named_parts("weight"))]
        if self.bias:
            declared.append(Declaration(self.bias, self.shape[:1], decays=False, parts=self._named_parts("bias")))
        return declared

    def forward(self, x):
        """x: (..., I)  ->  y: (..., O), cache. There is no cache, and no backward, where the weight is quantised."""
        weight = self.parameters[self.weight]
        bias = self.parameters[self.bias] if self.bias else None
        if isinstance(weight, Quantized):
            y = self.ops.quantized_linear(x, weight)
            return y if bias is None else y + bias, None
        return self.ops.linear_forward(x, weight, bias)

    def backward(self, dy, cache, grads):
        """dy: (..., O)  ->  dx: (..., I)."""
        needs = (True, self.weight in grads, self.bias in grads)
        dx, dweight, dbias = self.ops.linear_backward(dy, cache, needs)
        grads.add(self.bias, dbias)
        grads.add(self.weight, dweight)
        return dx

    def _named_parts(self, kind):
        return tuple((f"{name}.{kind}", rows) for name, rows in self.parts.items())
