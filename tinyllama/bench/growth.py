"""How time and memory of a training step grow with the sequence length, the batch, the width, and the cores."""

import os
import statistics
from typing import NamedTuple

from tinyllama.backends.threads import cores
from tinyllama.bench.contestant import Contestant
from tinyllama.bench.sizes import Size

BASE = Size("growth", hidden_size=128, layers=2, heads=4, intermediate_size=344, vocab_size=512, batch_size=4,
            context=256)
CONTEXTS, BATCHES, WIDTHS = (128, 256, 512, 1024, 2048), (1, 2, 4, 8, 16), (64, 128, 256, 512)
HEAD_DIM = 32               # of every width
SECONDS = 1.0               # how long the steps of a point may take together, about, ...
FEWEST, MOST = 3, 15        # ... if they are at least and at most so many


class Point(NamedTuple):
    """A step of one size."""

    value: int              # of what grows
    size: Size
    workers: int
    times: list             # seconds of every step
    peak: int | None        # bytes above importing the packages; None where the system does not say

    @property
    def seconds(self):
        """The median step."""
        return statistics.median(self.times)


def sweeps(base=BASE, *, contexts=CONTEXTS, batches=BATCHES, widths=WIDTHS, most_cores=None):
    """{what grows: [(its value, the size, the cores or None for all)]}, each value twice the one before.

    The cores grow only where the system can keep a process to some of them.
    """
    most_cores = cores() if most_cores is None else most_cores
    planned = {
        "context": [(value, base._replace(context=value), None) for value in contexts],
        "batch_size": [(value, base._replace(batch_size=value), None) for value in batches],
        "hidden_size": [(value, _of_width(base, value), None) for value in widths],
    }
    if hasattr(os, "sched_setaffinity"):
        enough = base._replace(batch_size=max(base.batch_size, most_cores))         # a row for each core
        counts = sorted({2**i for i in range(most_cores.bit_length())} | {most_cores})
        planned["cores"] = [(value, enough, value) for value in counts]
    return planned


def measure_growth(planned=None, *, backend=None, workers=None, say=lambda text: None):
    """Measure every point of some sweeps, each in a process of its own: {what grows: [Point]}.

    planned: what `sweeps` returns, None for its defaults. backend, workers: None for what a model takes by itself.
    say(text) is told what is going on.
    """
    measured = {}
    for name, points in (sweeps() if planned is None else planned).items():
        measured[name] = []
        for value, size, some_cores in points:
            say(f"growth: {name} = {value:,}")
            measured[name].append(_measure(value, size, backend, workers, some_cores))
    return measured


def _measure(value, size, backend, workers, some_cores):
    with Contestant("ours", size, backend=backend, workers=workers, cores=some_cores) as contestant:
        first = contestant.steps(2)["seconds"][-1]
        answer = contestant.steps(min(max(round(SECONDS / first), FEWEST), MOST))
        return Point(value, size, contestant.facts["workers"], answer["seconds"], answer["peak"])


def _of_width(base, width):
    return base._replace(hidden_size=width, heads=max(width // HEAD_DIM, 1),
                         intermediate_size=round(width * base.intermediate_size / base.hidden_size))
