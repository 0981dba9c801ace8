"""The training loop."""

import math
import numbers
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tinyllama.training.optimizers import SGD, AdamW, are_betas, require
from tinyllama.training.schedules import SCHEDULES, learning_rate_at

OPTIMIZERS = ("adamw", "sgd")


@dataclass(frozen=True)
class TrainingSettings:
    """How to train: `steps` updates with warm-up, a schedule and clipping.

    optimizer: "adamw", which `betas` belong to, or "sgd", which `momentum` belongs to. schedule: "constant", "linear"
    or "cosine". final_fraction: the last learning rate as a part of the peak. seed: of the dropout masks.
    label_smoothing: the part of every target that is spread over all tokens. micro_steps: in how many pieces the rows
    of an update are computed, each in the memory that it needs; the update is that of the whole. Raises ValueError
    naming the setting that is out of its range.
    """

    steps: int = 2000
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    final_fraction: float = 0.1
    betas: tuple = (0.9, 0.99)
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0
    seed: int = 0
    optimizer: str = "adamw"
    schedule: str = "cosine"
    momentum: float = 0.9
    l2: float = 0.0
    label_smoothing: float = 0.0
    micro_steps: int = 1

    def __post_init__(self):
        require(self.max_grad_norm > 0, "max_grad_norm", "a number above 0", self.max_grad_norm)
        for name in ("steps", "learning_rate"):
            require(0 < getattr(self, name) < math.inf, name, "a number above 0", getattr(self, name))
        for name in ("warmup_steps", "final_fraction", "weight_decay", "l2", "seed"):
            require(0 <= getattr(self, name) < math.inf, name, "a number of at least 0", getattr(self, name))
        for name, choices in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            chosen = getattr(self, name)
            require(chosen in choices, name, f"one of {', '.join(map(repr, choices))}", repr(chosen))
        require(are_betas(self.betas), "betas", "two numbers, 0 <= beta < 1", self.betas)
        require(0 <= self.momentum < 1, "momentum", "0 <= momentum < 1", self.momentum)
        require(0 <= self.label_smoothing <= 1, "label_smoothing", "0 <= label_smoothing <= 1", self.label_smoothing)
        require(isinstance(self.micro_steps, numbers.Integral) and self.micro_steps >= 1, "micro_steps",
                "an integer of at least 1", self.micro_steps)


class StepReport(NamedTuple):
    """One update. Loss and norm stay on the device until somebody reads them with float()."""

    step: int               # counted from 0
    loss: Any               # nats per target, of this step's batch, before the update; smoothed if the targets are
    norm: Any               # of all gradients together, before clipping
    learning_rate: float


class Evaluation(NamedTuple):
    """How well a model predicts."""

    loss: float             # nats per target
    targets: int            # how many there were


def make_optimizer(model, settings):
    """The optimizer that the settings describe, before its first step."""
    if settings.optimizer == "sgd":
        return SGD(model, settings.learning_rate, settings.momentum, settings.weight_decay, settings.l2)
    return AdamW(model, settings.learning_rate, settings.betas, settings.weight_decay, l2=settings.l2)


def train(model, batch, settings, optimizer=None, first_step=0):
    """Train `model` in place, and yield a `StepReport` after every update.

    batch(step) -> (ids, targets) or (ids, targets, documents): the rows of one update, (B, T) integers each, documents
    perhaps None. A function of the step, as are the learning rate and the dropout masks: a run that stopped after k
    updates goes on, bit for bit, with first_step=k, its weights, and an optimizer given its state by `load_state`.
    Without an optimizer, a new one is made.

    An iterator rather than a callback: whoever trains decides what to show, when to evaluate and when to stop. Raises
    ValueError, at the first step asked for, where the optimizer belongs to another model or first_step lies outside the
    run; and where a batch has fewer rows than there are micro-steps.
    """
    optimizer = make_optimizer(model, settings) if optimizer is None else optimizer
    require(optimizer.model is model, "optimizer", "one of this model", "one of another")
    require(0 <= first_step <= settings.steps, "first_step", f"0 to {settings.steps}, the steps of the run", first_step)
    for step in range(first_step, settings.steps):
        optimizer.learning_rate = learning_rate_at(
            step, schedule=settings.schedule, peak=settings.learning_rate, warmup_steps=settings.warmup_steps,
            total_steps=settings.steps, final_fraction=settings.final_fraction)
        loss = _accumulate(model, batch(step), settings, step)
        norm = optimizer.step(settings.max_grad_norm)
        yield StepReport(step, loss, norm, optimizer.learning_rate)


def evaluate(model, batches):
    """The mean loss over all targets of some batches, without smoothing and dropout: an `Evaluation`.

    batches: an iterable of what `train` takes, of any sizes. Every target weighs the same, in whichever batch it is.
    Raises ValueError where there is no target at all.
    """
    total, count = 0.0, 0
    for batch in batches:
        ids, targets, documents = _with_documents(batch)
        total += float(model.loss(ids, targets, divisor=1, documents=documents))        # the sum over the targets
        count += _count_valid(targets)
    require(count > 0, "batches", "at least one target", "none")
    return Evaluation(total / count, count)


def _accumulate(model, batch, settings, step):
    """Fill the gradient of `model` with that of a whole batch, a piece of its rows after another; returns the loss.

    Every piece divides by the number of targets in the whole, so that their sums are the loss and the gradient of the
    whole, however the targets are spread. A mean of means would weigh a piece with few targets like one with many.
    """
    batch, count = _with_documents(batch), settings.micro_steps
    rows = len(batch[0])
    require(count <= rows, "micro_steps", f"at most the {rows} rows of a batch", count)
    divisor = max(_count_valid(batch[1]), 1)
    # (B, T) -> about (B / count, T) each
    pieces = ([None] * count if array is None else np.array_split(array, count) for array in batch)
    losses = []
    for micro_step, (ids, targets, documents) in enumerate(zip(*pieces, strict=True)):
        dropout = (settings.seed, step, micro_step) if model.config.dropout else None
        loss, _ = model.loss_and_grads(ids, targets, divisor, accumulate=micro_step > 0, documents=documents,
                                       dropout=dropout, label_smoothing=settings.label_smoothing)
        losses.append(loss)
    return sum(losses)


def _with_documents(batch):
    """(ids, targets, documents), where a batch of two has the documents None."""
    return batch if len(batch) == 3 else (*batch, None)


def _count_valid(targets):
    return int(np.count_nonzero(np.asarray(targets) != -100))
