"""The AdamW update, in place: this and `sgd_step` are the operations that write to their arguments."""

from tinyllama.ops.array import array_namespace


def adamw_step(weight, gradient, m, v, *, step, learning_rate, betas, eps, weight_decay, l2=0.0, gradient_scale=1.0):
    """Move the weights against the gradient, each by its own scale.

        g       = gradient_scale · gradient + l2 · weight
        m       = β₁ m + (1 - β₁) g                         the mean of recent gradients
        v       = β₂ v + (1 - β₂) g²                        the mean of their squares
        weight -= learning_rate · weight_decay · weight     decay, decoupled from the gradient
        weight -= learning_rate · m̂ / (sqrt(v̂) + eps)       m̂ = m / (1 - β₁^step),  v̂ = v / (1 - β₂^step):
                                                            m and v began at zero, which the division makes up for

    weight, gradient, m, v: (N,), all but the gradient written in place; step counts from 1. `gradient_scale` is a
    number or an array of no dimension: clipping happens in the same pass.

    `l2` and `weight_decay` both draw the weights towards zero. L2, the gradient of l2/2 · Σ weight², goes through the
    moments like any gradient: divided by sqrt(v̂), it hardly reaches a weight whose gradients are large. Decoupled decay
    shrinks every weight by the same fraction.

    Source: Loshchilov & Hutter 2019, algorithm 2, which shows both. Derived in chapter 12.
    """
    xp = array_namespace(weight)
    beta1, beta2 = betas
    g = gradient * gradient_scale                                       # (N,)
    if l2:
        g += l2 * weight
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * g * g
    weight *= 1 - learning_rate * weight_decay
    weight -= learning_rate / (1 - beta1**step) * m / (xp.sqrt(v / (1 - beta2**step)) + eps)
