"""Dropout at a named place of a network."""

from tinyllama.nn.layer import Layer
from tinyllama.ops.counter_random import random_key

SITES = ("embedding", "attention", "mlp")       # each place draws a mask of its own


class Dropout(Layer):
    """Drop elements at `rate` in a pass whose context carries (seed, step, micro-step); otherwise do nothing."""

    def __init__(self, rate, site):
        self.rate, self.site = rate, SITES.index(site)

    def forward(self, x, context):
        """x: (B, ...)  ->  y: (B, ...), cache."""
        if context.dropout is None or self.rate == 0:
            return x, None
        key = random_key(*context.dropout, context.layer, self.site)
        return self.ops.dropout_forward(x, rate=self.rate, key=key, first_row=context.first_row)

    def backward(self, dy, cache, grads):
        """dy: (B, ...)  ->  dx: (B, ...)."""
        return dy if cache is None else self.ops.dropout_backward(dy, cache)
