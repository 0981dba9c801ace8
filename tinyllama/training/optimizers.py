"""Optimizers: how a gradient becomes a change of the weights."""

import math

import numpy as np


class AdamW:
    """Adam with decoupled weight decay, over the flat buffer of a model's trainable weights.

    Weights that decay are the matrices; norms and biases do not. `learning_rate` may be changed between steps, as a
    schedule does. The two moments are made at the first step.

    Raises ValueError for a setting out of its range. Source: Loshchilov & Hutter 2019, algorithm 2; the update itself
    is `tinyllama.ops.adamw`, derived in chapter 12.
    """

    def __init__(self, model, learning_rate=3e-4, betas=(0.9, 0.95), weight_decay=0.1, eps=1e-8):
        for name, value, accepted, expected in (
            ("learning_rate", learning_rate, learning_rate >= 0, "at least 0"),
            ("betas", betas, are_betas(betas), "two numbers, 0 <= beta < 1"),
            ("weight_decay", weight_decay, weight_decay >= 0, "at least 0"),
            ("eps", eps, eps > 0, "above 0"),
        ):
            if not accepted:
                raise ValueError(f"{name}: expected {expected}, got {value}")
        self.model, self.learning_rate, self.betas, self.weight_decay, self.eps = (
            model, learning_rate, betas, weight_decay, eps)
        self.steps = 0
        self._moments = None

    def step(self, max_grad_norm=None):
        """Update the weights in place from the gradient of the last `loss_and_grads`; returns its norm.

        max_grad_norm: where the norm of all gradients together is larger, they are scaled down to it (Pascanu et al.
        2013); None never. The norm returned is that before clipping, an array of the backend of no dimension: nothing
        is fetched from a device until somebody reads it. Raises ValueError where there is no gradient yet, or
        `max_grad_norm` is not above 0.
        """
        model, backend, xp = self.model, self.model.backend, self.model.backend.xp
        weights, gradient = model.parameters.trainable, model.gradient
        if gradient is None:
            raise ValueError("step: expected a gradient from model.loss_and_grads, got none yet")
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm: expected a number above 0, or None, got {max_grad_norm}")
        if self._moments is None:
            self._moments = [backend.zeros(weights.size, model.dtype) for _ in range(2)]
        norm = backend.global_norm(gradient)
        scale = 1.0
        if max_grad_norm is not None and math.isfinite(max_grad_norm):
            scale = xp.minimum(max_grad_norm / (norm + 1e-6), 1)
        self.steps += 1
        decaying = model.parameters.decaying
        for part, weight_decay in ((slice(0, decaying), self.weight_decay), (slice(decaying, None), 0.0)):
            m, v = (moment[part] for moment in self._moments)
            backend.adamw_step(weights[part], gradient[part], m, v, step=self.steps, learning_rate=self.learning_rate,
                               betas=self.betas, eps=self.eps, weight_decay=weight_decay, gradient_scale=scale)
        return norm


def are_betas(betas):
    """Whether these can be the two decay rates of Adam's moments."""
    return np.shape(betas) == (2,) and all(0 <= beta < 1 for beta in betas)
