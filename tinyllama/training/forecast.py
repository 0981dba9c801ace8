"""What a run will cost on this machine, found out by trying: a few updates of a copy of the model."""

import copy
import dataclasses
import statistics
import time
import tracemalloc
from typing import NamedTuple

from tinyllama.training.trainer import evaluate, train

UPDATES_TIMED = 3


class Forecast(NamedTuple):
    """The expected cost of a run."""

    seconds: float
    bytes: int      # the most memory that is held at a time: weights, gradients, moments and what a step needs besides


def forecast(model, batches, settings, *, steps, evaluations, validation):
    """Measure a few updates and a batch of the evaluation, without touching `model`.

    batches: what training sees. steps: how many updates there are to make. validation: the batches of an evaluation, of
    which there will be so many `evaluations`.
    """
    validation = list(validation)
    tracemalloc.start()
    try:
        trial = copy.deepcopy(model)                            # so that the weights are counted too
        updates = train(trial, batches.batch, dataclasses.replace(settings, steps=UPDATES_TIMED + 1))
        next(updates)                                           # makes gradients and moments; not timed
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    step = statistics.median(_seconds(lambda: float(next(updates).loss)) for _ in range(UPDATES_TIMED))
    evaluation = len(validation) * _seconds(lambda: evaluate(trial, validation[:1]))
    return Forecast(steps * step + evaluations * evaluation, most)


def _seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
