"""The part of a block that looks at one token at a time: up, a non-linearity, down."""

from tinyllama.nn.layer import Layer
from tinyllama.nn.linear import Linear


class SwiGLU(Layer):
    """y = down(silu(gate(x)) · up(x)). Source: Shazeer 2020. Gate and up are one product."""

    def __init__(self, name, hidden_size, intermediate_size, *, bias=False, std=0.02, down_std=0.02):
        parts = {f"{name}.gate_proj": intermediate_size, f"{name}.up_proj": intermediate_size}
        self.gate_up = Linear(f"{name}.gate_up_proj", hidden_size, sum(parts.values()), bias=bias, std=std, parts=parts)
        self.down = Linear(f"{name}.down_proj", intermediate_size, hidden_size, bias=bias, std=down_std)

    def forward(self, x):
        """x: (..., D)  ->  y: (..., D), cache."""
        h, gate_up_cache = self.gate_up.forward(x)                      # (..., D) -> (..., 2I)
        h, swiglu_cache = self.ops.swiglu_forward(h)                    # (..., 2I) -> (..., I)
        y, down_cache = self.down.forward(h)                            # (..., I) -> (..., D)
        return y, (gate_up_cache, swiglu_cache, down_cache)

    def backward(self, dy, cache, grads):
        """dy: (..., D)  ->  dx: (..., D)."""
        gate_up_cache, swiglu_cache, down_cache = cache
        dh = self.down.backward(dy, down_cache, grads)                  # (..., D) -> (..., I)
        dh = self.ops.swiglu_backward(dh, swiglu_cache)                 # (..., I) -> (..., 2I)
        return self.gate_up.backward(dh, gate_up_cache, grads)          # (..., 2I) -> (..., D)


class MLP(Layer):
    """y = down(f(up(x))), f being "relu" or "gelu": what Transformers had before SwiGLU."""

    def __init__(self, name, hidden_size, intermediate_size, *, activation, bias=False, std=0.02, down_std=0.02):
        self.activation = activation
        self.up = Linear(f"{name}.up_proj", hidden_size, intermediate_size, bias=bias, std=std)
        self.down = Linear(f"{name}.down_proj", intermediate_size, hidden_size, bias=bias, std=down_std)

    def forward(self, x):
        """x: (..., D)  ->  y: (..., D), cache."""
        h, up_cache = self.up.forward(x)                                # (..., D) -> (..., I)
        h, activation_cache = getattr(self.ops, f"{self.activation}_forward")(h)
        y, down_cache = self.down.forward(h)                            # (..., I) -> (..., D)
        return y, (up_cache, activation_cache, down_cache)

    def backward(self, dy, cache, grads):
        """dy: (..., D)  ->  dx: (..., D)."""
        up_cache, activation_cache, down_cache = cache
        dh = self.down.backward(dy, down_cache, grads)                  # (..., D) -> (..., I)
        dh = getattr(self.ops, f"{self.activation}_backward")(dh, activation_cache)
        return self.up.backward(dh, up_cache, grads)                    # (..., I) -> (..., D)
