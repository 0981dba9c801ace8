"""SwiGLU, wrong: which half is the gate, and what each half is multiplied by."""

from tinyllama.ops.array import array_namespace
from tinyllama.ops.sigmoid import sigmoid
from tinyllama.ops.swiglu import SwiGLUCache


def swaps_the_gradients(dy, cache, needs=None):
    """The gradient of up is put into the half of the gate, and the other way round."""
    (x,) = cache
    xp = array_namespace(dy)
    gate, up = xp.split(x, 2, axis=-1)                                  # (..., I), (..., I)
    s = sigmoid(gate)                                                   # (..., I)
    dup = dy * gate * s
    dgate = dy * up * s * (1 + gate * (1 - s))
    return xp.concatenate([dup, dgate], axis=-1)                        # (..., 2I)


def takes_up_for_the_gate(dy, cache, needs=None):
    """The halves are read in the wrong order, as if up came first."""
    (x,) = cache
    xp = array_namespace(dy)
    up, gate = xp.split(x, 2, axis=-1)                                  # (..., I), (..., I)
    s = sigmoid(gate)                                                   # (..., I)
    dup = dy * gate * s
    dgate = dy * up * s * (1 + gate * (1 - s))
    return xp.concatenate([dup, dgate], axis=-1)                        # (..., 2I)


def forgets_up(dy, cache, needs=None):
    """dgate is not multiplied by up, the other factor of the product."""
    (x,) = cache
    xp = array_namespace(dy)
    gate, _ = xp.split(x, 2, axis=-1)                                   # (..., I)
    s = sigmoid(gate)                                                   # (..., I)
    dup = dy * gate * s
    dgate = dy * s * (1 + gate * (1 - s))
    return xp.concatenate([dgate, dup], axis=-1)                        # (..., 2I)


def forgets_to_activate_the_gate(dy, cache, needs=None):
    """dup is multiplied by the gate itself instead of silu(gate)."""
    (x,) = cache
    xp = array_namespace(dy)
    gate, up = xp.split(x, 2, axis=-1)                                  # (..., I), (..., I)
    s = sigmoid(gate)                                                   # (..., I)
    dup = dy * gate
    dgate = dy * up * s * (1 + gate * (1 - s))
    return xp.concatenate([dgate, dup], axis=-1)                        # (..., 2I)


def takes_the_sigmoid_for_a_constant(dy, cache, needs=None):
    """Only one term of silu's product rule: the sigmoid depends on the gate too."""
    (x,) = cache
    xp = array_namespace(dy)
    gate, up = xp.split(x, 2, axis=-1)                                  # (..., I), (..., I)
    s = sigmoid(gate)                                                   # (..., I)
    dup = dy * gate * s
    dgate = dy * up * s
    return xp.concatenate([dgate, dup], axis=-1)                        # (..., 2I)


def takes_the_derivative_of_the_sigmoid(dy, cache, needs=None):
    """dgate has the derivative of the sigmoid, s (1 - s), instead of that of silu."""
    (x,) = cache
    xp = array_namespace(dy)
    gate, up = xp.split(x, 2, axis=-1)                                  # (..., I), (..., I)
    s = sigmoid(gate)                                                   # (..., I)
    dup = dy * gate * s
    dgate = dy * up * s * (1 - s)
    return xp.concatenate([dgate, dup], axis=-1)                        # (..., 2I)


def interleaves_the_halves(dy, cache, needs=None):
    """The gradients are put into every other place instead of one half each."""
    (x,) = cache
    xp = array_namespace(dy)
    gate, up = xp.split(x, 2, axis=-1)                                  # (..., I), (..., I)
    s = sigmoid(gate)                                                   # (..., I)
    dup = dy * gate * s
    dgate = dy * up * s * (1 + gate * (1 - s))
    return xp.stack([dgate, dup], axis=-1).reshape(x.shape)             # (..., I, 2) -> (..., 2I)


def gates_with_the_second_half(x):
    """The activation is applied to the second half, which is up, instead of the first."""
    xp = array_namespace(x)
    gate, up = xp.split(x, 2, axis=-1)                                  # (..., I), (..., I)
    return gate * up * sigmoid(up), SwiGLUCache(x)                      # (..., I)


def gates_with_a_sigmoid(x):
    """The gate goes through a sigmoid alone, as in the first gated unit, GLU, instead of silu."""
    xp = array_namespace(x)
    gate, up = xp.split(x, 2, axis=-1)                                  # (..., I), (..., I)
    return sigmoid(gate) * up, SwiGLUCache(x)                           # (..., I)


MISTAKES = {
    "swiglu_backward": [
        (swaps_the_gradients, "wrong order"),
        (takes_up_for_the_gate, "wrong order"),
        (forgets_up, "missing term"),
        (forgets_to_activate_the_gate, "missing term"),
        (takes_the_sigmoid_for_a_constant, "missing term"),
        (takes_the_derivative_of_the_sigmoid, "wrong term"),
        (interleaves_the_halves, "wrong order"),
    ],
    "swiglu_forward": [
        (gates_with_the_second_half, "wrong order"),
        (gates_with_a_sigmoid, "wrong term"),
    ],
}
