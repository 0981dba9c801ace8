"""ReLU, wrong: the mask is made of x, and the gradient of what it lets through is dy."""

from tinyllama.ops.array import array_namespace
from tinyllama.ops.relu import ReLUCache


def looks_at_the_gradient(dy, cache, needs=None):
    """The mask asks where dy is positive instead of where x is."""
    return dy * (dy > 0)


def lets_everything_through(dy, cache, needs=None):
    """The mask is not applied in backward."""
    return dy


def inverts_the_mask(dy, cache, needs=None):
    """The gradient passes where x was negative and stops where it was positive."""
    (positive,) = cache
    return dy * ~positive


def forgets_what_arrives(dy, cache, needs=None):
    """The mask itself is returned: the chain rule ends here."""
    (positive,) = cache
    return positive.astype(dy.dtype)


def turns_the_sign(dy, cache, needs=None):
    """Where x was negative, dy is negated instead of stopped: that is the derivative of |x|."""
    (positive,) = cache
    xp = array_namespace(dy)
    return xp.where(positive, dy, -dy)


def leaks(x):
    """Negative numbers are multiplied by 0.01 instead of 0: that is leaky ReLU, and its backward differs too."""
    xp = array_namespace(x)
    return xp.where(x > 0, x, 0.01 * x), ReLUCache(x > 0)


MISTAKES = {
    "relu_backward": [
        (looks_at_the_gradient, "mask"),
        (lets_everything_through, "mask"),
        (inverts_the_mask, "mask"),
        (forgets_what_arrives, "missing term"),
        (turns_the_sign, "sign"),
    ],
    "relu_forward": [
        (leaks, "wrong term"),
    ],
}
