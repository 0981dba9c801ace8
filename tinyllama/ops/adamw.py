"""The AdamW update, in place: the one operation here that writes to its arguments."""

from tinyllama.ops.array import array_namespace


def adamw_step(weight, gradient, m, v, *, step, learning_rate, betas, eps, weight_decay, gradient_scale=1.0):
    """Move the weights against the gradient, each by its own scale.

        g       = gradient_scale · gradient
        m       = β₁ m + (1 - β₁) g                         the mean of recent gradients
        v       = β₂ v + (1 - β₂) g²                        the mean of their squares
        weight -= learning_rate · weight_decay · weight     decay, decoupled from the gradient
        weight -= learning_rate · m̂ / (sqrt(v̂) + eps)       m̂ = m / (1 - β₁^step),  v̂ = v / (1 - β₂^step):
                                                            m and v began at zero, which the division makes up for

    weight, gradient, m, v: (N,), all but the gradient written in place; step counts from 1. `gradient_scale` is a
    number or an array of no dimension: clipping happens in the same pass.
    Source: Loshchilov & Hutter 2019, algorithm 2. Derived in chapter 12.
    """
    xp = array_namespace(weight)
    beta1, beta2 = betas
    g = gradient * gradient_scale                                       # (N,)
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * g * g
    weight *= 1 - learning_rate * weight_decay
    weight -= learning_rate / (1 - beta1**step) * m / (xp.sqrt(v / (1 - beta2**step)) + eps)
