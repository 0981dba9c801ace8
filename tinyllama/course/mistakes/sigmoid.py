"""The logistic sigmoid, wrong: its derivative is y (1 - y), where y is the result and not the argument."""

from tinyllama.ops.array import array_namespace
from tinyllama.ops.sigmoid import SigmoidCache, sigmoid


def keeps_one_factor(dy, cache, needs=None):
    """The factor y of y (1 - y) is left out."""
    (y,) = cache
    return dy * (1 - y)


def takes_the_derivative_of_exp(dy, cache, needs=None):
    """The factor 1 - y is left out: y is its own derivative for exp, not for the sigmoid."""
    (y,) = cache
    return dy * y


def applies_the_sigmoid_again(dy, cache, needs=None):
    """The cache holds y, but is taken for x: the derivative is evaluated in the wrong place."""
    (x,) = cache
    y = sigmoid(x)                                                      # (...)
    return dy * y * (1 - y)


def forgets_what_arrives(dy, cache, needs=None):
    """The derivative is not multiplied by dy: the chain rule ends here."""
    (y,) = cache
    return y * (1 - y)


def forgets_the_minus(x):
    """The exponential is of x instead of -x, so that y falls where it should rise."""
    xp = array_namespace(x)
    y = 1 / (1 + xp.exp(x))                                             # (...)
    return y, SigmoidCache(y)


MISTAKES = {
    "sigmoid_backward": [
        (keeps_one_factor, "missing term"),
        (takes_the_derivative_of_exp, "missing term"),
        (applies_the_sigmoid_again, "wrong term"),
        (forgets_what_arrives, "missing term"),
    ],
    "sigmoid_forward": [
        (forgets_the_minus, "sign"),
    ],
}
