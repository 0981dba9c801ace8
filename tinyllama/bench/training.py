"""Where the time of a training step goes, operation by operation."""

import statistics
from typing import NamedTuple

from tinyllama.backends import default_backend, load_backend
from tinyllama.bench.counts import model_flop
from tinyllama.bench.sizes import Size
from tinyllama.bench.steps import our_step, seconds_of
from tinyllama.bench.timing import rows_of, timed_backend

SECONDS = 8.0               # how long the steps of a size may take together, about, ...
FEWEST, MOST = 5, 31        # ... if they are at least and at most so many; odd, so that one of them is the median


class TrainingProfile(NamedTuple):
    """What the steps of a size took."""

    size: Size
    backend: str
    workers: int            # threads that shared the batch
    parameters: int
    times: list             # seconds of every step
    rows: list              # of the step with the median time, a `Row` for each operation and the rest
    flop: int               # of the model, see `counts.model_flop`

    @property
    def seconds(self):
        """The median step, and the sum of the rows."""
        return statistics.median(self.times)


def profile_training(size, *, backend=None, workers=None, steps=None, say=lambda text: None):
    """Make some training steps of a size, each with every operation timed: a `TrainingProfile`.

    backend: a name, None for the one that a model takes by itself. steps: an odd number of steps that count; None
    chooses by their time. say(text) is told what is going on. The first two steps do not count: they compile what is
    not compiled yet, and make the optimizer's memory.
    """
    chosen = load_backend(backend or default_backend())
    timed, calls = timed_backend(chosen)
    step, model = our_step(size, backend=timed, workers=workers)
    for number in (1, 2):
        say(f"training step, {size.name}: warming up, {number} of 2")
        first = seconds_of(step)
    steps = steps or min(max(round(SECONDS / first), FEWEST), MOST) // 2 * 2 + 1
    measured = []                                   # (seconds, calls) of each step
    for number in range(steps):
        say(f"training step, {size.name}: {number + 1} of {steps}")
        calls.clear()
        measured.append((seconds_of(step), list(calls)))
    median, calls = sorted(measured, key=lambda one: one[0])[steps // 2]
    return TrainingProfile(
        size, chosen.name, model.workers_for(size.batch_size),
        sum(weight.size for weight in model.parameters.values()), [seconds for seconds, _ in measured],
        rows_of(calls, median), model_flop(size.config, size.batch_size, size.context))
