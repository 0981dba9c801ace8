"""The update of gradient descent with momentum, in place like that of AdamW."""


def sgd_step(weight, gradient, velocity, *, learning_rate, momentum, weight_decay, l2=0.0, gradient_scale=1.0):
    """Move the weights against the gradient and what is left of all earlier ones.

        g         = gradient_scale · gradient + l2 · weight
        velocity  = momentum · velocity + g                 g + momentum · (the g before) + momentum² · ...
        weight   -= learning_rate · weight_decay · weight   decay, decoupled from the gradient
        weight   -= learning_rate · velocity

    weight, gradient, velocity: (N,), all but the gradient written in place; the velocity begins at zero.
    `gradient_scale` is a number or an array of no dimension: clipping happens in the same pass. The learning rate is no
    part of the velocity, as in PyTorch: a new one takes hold at once.

    `l2` and `weight_decay` both draw the weights towards zero. L2, the gradient of l2/2 · Σ weight², enters the
    velocity and is remembered there; decoupled decay acts in its own step alone. Without momentum they are the same.
    Sources: Polyak 1964; Sutskever et al. 2013; Loshchilov & Hutter 2019, algorithm 1 (decay). Derived in chapter 12.
    """
    g = gradient * gradient_scale                                       # (N,)
    if l2:
        g += l2 * weight
    velocity *= momentum
    velocity += g
    weight *= 1 - learning_rate * weight_decay
    weight -= learning_rate * velocity
