"""The two normalisation layers."""

from tinyllama.nn.layer import Layer
from tinyllama.nn.parameters import Declaration


class RMSNorm(Layer):
    """Rows of unit root mean square, stretched by the parameter NAME.weight (D,)."""

    def __init__(self, name, hidden_size, *, eps=1e-5):
        self.weight, self.hidden_size, self.eps = f"{name}.weight", hidden_size, eps

    def own_declarations(self):
        """The weight; it begins at 1 and does not decay."""
        return [Declaration(self.weight, (self.hidden_size,), fill=1.0, decays=False)]

    def forward(self, x):
        """x: (..., D)  ->  y: (..., D), cache."""
        return self.ops.rmsnorm_forward(x, self.parameters[self.weight], eps=self.eps)

    def backward(self, dy, cache, grads):
        """dy: (..., D)  ->  dx: (..., D)."""
        dx, dweight = self.ops.rmsnorm_backward(dy, cache, (True, self.weight in grads))
        grads.add(self.weight, dweight)
        return dx


class LayerNorm(Layer):
    """Rows of mean 0 and variance 1, stretched by NAME.weight (D,) and shifted by NAME.bias (D,)."""

    def __init__(self, name, hidden_size, *, eps=1e-5):
        self.weight, self.bias = f"{name}.weight", f"{name}.bias"
        self.hidden_size, self.eps = hidden_size, eps

    def own_declarations(self):
        """The weight, which begins at 1, and the bias, at 0; neither decays."""
        return [Declaration(self.weight, (self.hidden_size,), fill=1.0, decays=False),
                Declaration(self.bias, (self.hidden_size,), decays=False)]

    def forward(self, x):
        """x: (..., D)  ->  y: (..., D), cache."""
        return self.ops.layernorm_forward(x, self.parameters[self.weight], self.parameters[self.bias], eps=self.eps)

    def backward(self, dy, cache, grads):
        """dy: (..., D)  ->  dx: (..., D)."""
        needs = (True, self.weight in grads, self.bias in grads)
        dx, dweight, dbias = self.ops.layernorm_backward(dy, cache, needs)
        grads.add(self.bias, dbias)
        grads.add(self.weight, dweight)
        return dx
