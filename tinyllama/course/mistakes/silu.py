"""SiLU, wrong: x occurs twice in x · sigmoid(x), so the product rule has two terms."""

from tinyllama.ops.sigmoid import sigmoid
from tinyllama.ops.silu import SiLUCache


def takes_the_sigmoid_for_a_constant(dy, cache, needs=None):
    """Only the first term of the product rule: the sigmoid depends on x too."""
    (x,) = cache
    return dy * sigmoid(x)                                              # (...)


def differentiates_the_sigmoid_only(dy, cache, needs=None):
    """Only the second term of the product rule: the factor x has the derivative 1, not 0."""
    (x,) = cache
    s = sigmoid(x)                                                      # (...)
    return dy * x * s * (1 - s)


def subtracts_the_second_term(dy, cache, needs=None):
    """The second term of the product rule is subtracted instead of added."""
    (x,) = cache
    s = sigmoid(x)                                                      # (...)
    return dy * s * (1 - x * (1 - s))


def forgets_x_in_the_second_term(dy, cache, needs=None):
    """The second term of the product rule lacks its factor x."""
    (x,) = cache
    s = sigmoid(x)                                                      # (...)
    return dy * s * (1 + (1 - s))


def scales_inside_the_sigmoid(x):
    """The sigmoid is taken of 1.702 x, which imitates GELU, while backward differentiates SiLU."""
    return x * sigmoid(1.702 * x), SiLUCache(x)                         # (...)


MISTAKES = {
    "silu_backward": [
        (takes_the_sigmoid_for_a_constant, "missing term"),
        (differentiates_the_sigmoid_only, "missing term"),
        (subtracts_the_second_term, "sign"),
        (forgets_x_in_the_second_term, "missing term"),
    ],
    "silu_forward": [
        (scales_inside_the_sigmoid, "wrong term"),
    ],
}
