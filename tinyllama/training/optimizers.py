"""Optimizers: how a gradient becomes a change of the weights."""

import math
import numbers

import numpy as np


class Optimizer:
    """What optimizers share: a pass over the flat buffer of a model's trainable weights, in which the matrices decay.

    `weight_decay` and `l2` apply to the matrices; norms and biases have neither. `learning_rate` may be changed between
    steps, as a schedule does. `steps` is the number of steps made. What an optimizer remembers of them are flat
    buffers, twins of the gradient, made at the first step.

    A subclass gives their names in `remembers`, and in `_update` the operation that writes to them.
    """

    remembers = ()

    def __init__(self, model, *, learning_rate, weight_decay, l2):
        for name, value in (("learning_rate", learning_rate), ("weight_decay", weight_decay), ("l2", l2)):
            require(value >= 0, name, "at least 0", value)
        _ = model.parameters.trainable      # a quantised model says here that it has none
        self.model, self.learning_rate, self.weight_decay, self.l2 = model, learning_rate, weight_decay, l2
        self.steps = 0
        self._memory = None         # the buffers, in the order of `remembers`

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
        require(max_grad_norm is None or max_grad_norm > 0, "max_grad_norm", "a number above 0, or None", max_grad_norm)
        if self._memory is None:
            self._memory = self._new_memory()
        norm = backend.global_norm(gradient)
        scale = 1.0
        if max_grad_norm is not None and math.isfinite(max_grad_norm):
            scale = xp.minimum(max_grad_norm / (norm + 1e-6), 1)
        self.steps += 1
        decaying = model.parameters.decaying
        for part, weight_decay, l2 in ((slice(0, decaying), self.weight_decay, self.l2),
                                       (slice(decaying, None), 0.0, 0.0)):
            self._update(weights[part], gradient[part], *(buffer[part] for buffer in self._memory),
                         learning_rate=self.learning_rate, weight_decay=weight_decay, l2=l2, gradient_scale=scale)
        return norm

    def state(self):
        """What the steps so far have left, {name: (N,) NumPy array}: copies, zeros before the first step.

        With `steps`, it is all that an optimizer needs to go on as if it had never stopped.
        """
        memory = self._memory or self._new_memory()
        return {name: np.array(self.model.backend.to_numpy(buffer))
                for name, buffer in zip(self.remembers, memory, strict=True)}

    def load_state(self, arrays, steps):
        """Go on from what `state()` returned after so many `steps`. The arrays are copied, bit for bit.

        Raises ValueError for other names, sizes or dtypes than this optimizer has, or where steps is not an integer of
        at least 0. Then nothing was changed.
        """
        size, dtype = self.model.parameters.trainable.size, self.model.dtype
        require(set(arrays) == set(self.remembers), "arrays", f"the names {', '.join(self.remembers)}",
                ", ".join(arrays) or "none")
        for name in self.remembers:
            array = np.asarray(arrays[name])
            require(np.shape(array) == (size,), name, f"the shape {(size,)}, as the model has weights", np.shape(array))
            require(array.dtype == dtype, name, f"{dtype}, as the model has", array.dtype)
        require(isinstance(steps, numbers.Integral) and steps >= 0, "steps", "an integer of at least 0", steps)
        memory = self._new_memory()
        for name, buffer in zip(self.remembers, memory, strict=True):
            buffer[...] = self.model.backend.asarray(arrays[name])
        self._memory, self.steps = memory, int(steps)

    def _new_memory(self):
        return [self.model.backend.zeros(self.model.parameters.trainable.size, self.model.dtype)
                for _ in self.remembers]

    def _update(self, weights, gradient, *memory, learning_rate, weight_decay, l2, gradient_scale):
        """Write to a part of the weights and of the memory: (N,) each."""
        raise NotImplementedError


class AdamW(Optimizer):
    """Adam with decoupled weight decay: every weight moves by about the learning rate, whatever its gradient's scale.

    l2: a decay that goes through the moments instead, as in Adam; `tinyllama.ops.adamw` tells them apart. Raises
    ValueError for a setting out of its range. Source: Loshchilov & Hutter 2019, algorithm 2. Derived in chapter 12.
    """

    remembers = ("m", "v")

    def __init__(self, model, learning_rate=3e-4, betas=(0.9, 0.95), weight_decay=0.1, eps=1e-8, l2=0.0):
        super().__init__(model, learning_rate=learning_rate, weight_decay=weight_decay, l2=l2)
        require(are_betas(betas), "betas", "two numbers, 0 <= beta < 1", betas)
        require(eps > 0, "eps", "above 0", eps)
        self.betas, self.eps = betas, eps

    def _update(self, *arrays, **settings):
        self.model.backend.adamw_step(*arrays, step=self.steps, betas=self.betas, eps=self.eps, **settings)


class SGD(Optimizer):
    """Gradient descent with momentum: one number remembered for a weight, where AdamW needs two.

    momentum 0 is plain gradient descent. l2: a decay that goes through the velocity instead; `tinyllama.ops.sgd` tells
    them apart. Raises ValueError for a setting out of its range. Source: Polyak 1964. Derived in chapter 12.
    """

    remembers = ("velocity",)

    def __init__(self, model, learning_rate, momentum=0.9, weight_decay=0.0, l2=0.0):
        super().__init__(model, learning_rate=learning_rate, weight_decay=weight_decay, l2=l2)
        require(0 <= momentum < 1, "momentum", "0 <= momentum < 1", momentum)
        self.momentum = momentum

    def _update(self, *arrays, **settings):
        self.model.backend.sgd_step(*arrays, momentum=self.momentum, **settings)


def are_betas(betas):
    """Whether these can be the two decay rates of Adam's moments."""
    return np.shape(betas) == (2,) and all(0 <= beta < 1 for beta in betas)


def require(accepted, name, expected, got):
    """Raise ValueError, naming what was set, what was expected and what came, unless it was accepted."""
    if not accepted:
        raise ValueError(f"{name}: expected {expected}, got {got}")
