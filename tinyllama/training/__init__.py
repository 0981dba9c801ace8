"""Optimizers, schedules and the training loop."""

from tinyllama.training.optimizers import SGD, AdamW, Optimizer
from tinyllama.training.schedules import learning_rate_at
from tinyllama.training.trainer import Evaluation, StepReport, TrainingSettings, evaluate, make_optimizer, train

__all__ = ["SGD", "AdamW", "Evaluation", "Optimizer", "StepReport", "TrainingSettings", "evaluate", "learning_rate_at",
           "make_optimizer", "train"]
