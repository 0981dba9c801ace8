"""Optimizers, schedules and the training loop."""

from tinyllama.training.optimizers import AdamW
from tinyllama.training.schedules import warmup_cosine
from tinyllama.training.trainer import StepReport, TrainingSettings, evaluate, train

__all__ = ["AdamW", "StepReport", "TrainingSettings", "evaluate", "train", "warmup_cosine"]
