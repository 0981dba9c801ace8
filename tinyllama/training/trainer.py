"""The training loop."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from tinyllama.training.optimizers import AdamW, are_betas
from tinyllama.training.schedules import warmup_cosine


@dataclass(frozen=True)
class TrainingSettings:
    """How to train: `steps` updates by AdamW, with warm-up, cosine and clipping.

    final_fraction: the last learning rate as a part of the peak. seed: of the dropout masks. Raises ValueError naming
    the setting that is out of its range.
    """

    steps: int = 2000
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    final_fraction: float = 0.1
    betas: tuple = (0.9, 0.99)
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0
    seed: int = 0

    def __post_init__(self):
        for name in ("steps", "learning_rate", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected a number above 0, got {getattr(self, name)}")
        for name in ("warmup_steps", "final_fraction", "weight_decay", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected a number of at least 0, got {getattr(self, name)}")
        if not are_betas(self.betas):
            raise ValueError(f"betas: expected two numbers, 0 <= beta < 1, got {self.betas}")


class StepReport(NamedTuple):
    """One update. Loss and norm stay on the device until somebody reads them with float()."""

    step: int               # counted from 0
    loss: Any               # nats per token, of this step's batch, before the update
    norm: Any               # of all gradients together, before clipping
    learning_rate: float


def train(model, batch, settings):
    """Train `model` in place, and yield a `StepReport` after every update.

    batch(step) -> (ids, targets), (B, T) integers each: a function of the step, so that a run can be repeated. An
    iterator rather than a callback: whoever trains decides what to show, when to evaluate and when to stop.
    """
    optimizer = AdamW(model, settings.learning_rate, settings.betas, settings.weight_decay)
    for step in range(settings.steps):
        optimizer.learning_rate = warmup_cosine(
            step, peak=settings.learning_rate, warmup_steps=settings.warmup_steps, total_steps=settings.steps,
            final_fraction=settings.final_fraction)
        ids, targets = batch(step)                                              # (B, T) each
        dropout = (settings.seed, step, 0) if model.config.dropout else None
        loss, _ = model.loss_and_grads(ids, targets, dropout=dropout)
        norm = optimizer.step(settings.max_grad_norm)
        yield StepReport(step, loss, norm, optimizer.learning_rate)


def evaluate(model, batches):
    """The mean loss in nats per token over some batches of equal size, without dropout: a Python number.

    batches: an iterable of (ids, targets), (B, T) integers each. Raises ValueError where there is none.
    """
    losses = [float(model.loss(ids, targets)) for ids, targets in batches]
    if not losses:
        raise ValueError("batches: expected at least one batch, got none")
    return sum(losses) / len(losses)
