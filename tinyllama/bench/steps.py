"""One training step of a model of a given size, as a function without arguments, on the same random batch each time."""

import time

import numpy as np

from tinyllama.backends.memory import keep_freed_memory
from tinyllama.models import Llama
from tinyllama.training.optimizers import AdamW

LEARNING_RATE, BETAS, WEIGHT_DECAY, MAX_GRAD_NORM = 3e-4, (0.9, 0.95), 0.1, 1.0


def random_batch(size):
    """ids and targets, (B, T) integers each, the same for everybody who is measured."""
    return np.random.default_rng(0).integers(0, size.vocab_size, (2, size.batch_size, size.context))


def our_step(size, *, backend=None, workers=None):
    """(step, model): step() computes loss and gradients, clips, updates the weights by AdamW, and returns the loss.

    In float32. backend: a name or a `Backend`; None is the one that a model takes by itself. Freed memory is kept for
    the whole process, as a training run does.
    """
    keep_freed_memory()
    model = Llama(size.config, workers=workers, **({} if backend is None else {"backend": backend}))
    optimizer = AdamW(model, LEARNING_RATE, BETAS, WEIGHT_DECAY)
    ids, targets = random_batch(size)

    def step():
        loss, _ = model.loss_and_grads(ids, targets)
        optimizer.step(MAX_GRAD_NORM)
        model.backend.synchronize()
        return float(loss)

    return step, model


def seconds_of(step):
    """How long one call takes."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start
