"""One layer of a LLaMA: attention between tokens, then an MLP within each, both added to what came in."""

from tinyllama.nn.layer import Layer


class Block(Layer):
    """x = x + attention(norm(x)),  then  x = x + mlp(norm(x)).

    The parts are handed in, so that a configuration can swap each of them. Source: the pre-norm order of GPT-2, kept by
    LLaMA (Touvron et al. 2023, section 2.2).
    """

    def __init__(self, *, attention_norm, attention, attention_dropout, mlp_norm, mlp, mlp_dropout):
        self.attention_norm, self.attention, self.attention_dropout = attention_norm, attention, attention_dropout
        self.mlp_norm, self.mlp, self.mlp_dropout = mlp_norm, mlp, mlp_dropout

    def forward(self, x, context):
        """x: (B, T, hidden)  ->  y: (B, T, hidden), cache. Every line keeps the shape."""
        h, attention_norm_cache = self.attention_norm.forward(x)
        h, attention_cache = self.attention.forward(h, context)
        h, attention_dropout_cache = self.attention_dropout.forward(h, context)
        x = x + h
        h, mlp_norm_cache = self.mlp_norm.forward(x)
        h, mlp_cache = self.mlp.forward(h)
        h, mlp_dropout_cache = self.mlp_dropout.forward(h, context)
        x = x + h
        return x, (attention_norm_cache, attention_cache, attention_dropout_cache,
                   mlp_norm_cache, mlp_cache, mlp_dropout_cache)

    def backward(self, dx, cache, grads):
        """The gradient of the result -> that of the input, (B, T, hidden) both: `forward` read upwards.

        dx is the gradient of x, whatever x was at that line; x = x + h sends it down both ways.
        """
        (attention_norm_cache, attention_cache, attention_dropout_cache,
         mlp_norm_cache, mlp_cache, mlp_dropout_cache) = cache
        dh = self.mlp_dropout.backward(dx, mlp_dropout_cache, grads)
        dh = self.mlp.backward(dh, mlp_cache, grads)
        dx = dx + self.mlp_norm.backward(dh, mlp_norm_cache, grads)
        dh = self.attention_dropout.backward(dx, attention_dropout_cache, grads)
        dh = self.attention.backward(dh, attention_cache, grads)
        dx = dx + self.attention_norm.backward(dh, attention_norm_cache, grads)
        return dx
