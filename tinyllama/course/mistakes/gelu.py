"""GELU, wrong: a product, inside it a tanh, inside that a cubic, and each has a derivative of its own."""

from tinyllama.ops.array import array_namespace
from tinyllama.ops.gelu import CUBIC, SCALE, GELUCache
from tinyllama.ops.sigmoid import sigmoid


def forgets_the_product_rule(dy, cache, needs=None):
    """The factor 1 + tanh is taken for a constant, though it depends on x too."""
    _, tanh = cache
    return dy * 0.5 * (1 + tanh)                                        # (...)


def forgets_the_inner_derivative(dy, cache, needs=None):
    """The derivative of tanh is not multiplied by du/dx."""
    x, tanh = cache
    return dy * 0.5 * (1 + tanh + x * (1 - tanh * tanh))                # (...)


def forgets_the_three(dy, cache, needs=None):
    """The derivative of x³ is taken for x² instead of 3 x²."""
    x, tanh = cache
    slope = SCALE * (1 + CUBIC * x * x)                                 # (...)
    return dy * 0.5 * (1 + tanh + x * (1 - tanh * tanh) * slope)


def forgets_to_square_the_tanh(dy, cache, needs=None):
    """The derivative of tanh is taken for 1 - tanh instead of 1 - tanh²."""
    x, tanh = cache
    slope = SCALE * (1 + 3 * CUBIC * x * x)                             # (...)
    return dy * 0.5 * (1 + tanh + x * (1 - tanh) * slope)


def differentiates_another_gelu(dy, cache, needs=None):
    """This is the derivative of x · sigmoid(1.702 x), the other approximation: close, but not of this forward."""
    x, _ = cache
    s = sigmoid(1.702 * x)                                              # (...)
    return dy * s * (1 + 1.702 * x * (1 - s))


def forgets_the_cubic(x):
    """The argument of tanh is sqrt(2/π) · x, without the cubic part."""
    xp = array_namespace(x)
    tanh = xp.tanh(SCALE * x)                                           # (...)
    return 0.5 * x * (1 + tanh), GELUCache(x, tanh)


MISTAKES = {
    "gelu_backward": [
        (forgets_the_product_rule, "missing term"),
        (forgets_the_inner_derivative, "missing term"),
        (forgets_the_three, "wrong term"),
        (forgets_to_square_the_tanh, "wrong term"),
        (differentiates_another_gelu, "wrong term"),
    ],
    "gelu_forward": [
        (forgets_the_cubic, "missing term"),
    ],
}
