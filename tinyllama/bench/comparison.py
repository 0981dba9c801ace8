"""The same training step in PyTorch, in turns with ours, and the memory that each needs."""

import importlib.util
import statistics
from contextlib import ExitStack
from typing import NamedTuple

from tinyllama.bench.contestant import KINDS, Contestant
from tinyllama.bench.quartiles import quartiles
from tinyllama.bench.sizes import Size

ROUNDS = 7                      # turns of each
TURN_SECONDS = 1.0              # how long the steps of a turn take, about, ...
FEWEST, MOST = 2, 20            # ... if they are at least and at most so many

NO_TORCH = "PyTorch is not installed, so there is nothing to compare with: pip install torch"


class Side(NamedTuple):
    """One side of a comparison."""

    kind: str               # "ours", "eager" or "compiled"
    facts: dict             # {"backend", "workers"} or {"torch", "threads"}
    rounds: list            # for each turn, the seconds of its steps
    peak: int | None        # bytes of a step above importing the packages; None where it was not measured

    @property
    def seconds(self):
        """The median of all steps."""
        return statistics.median(second for turn in self.rounds for second in turn)


class Ratio(NamedTuple):
    """How many times as long as ours a step of another side takes."""

    ratio: float            # of the medians of all steps
    low: float              # the quartiles of the ratios of single rounds: of the medians of two neighbouring turns
    high: float


class Comparison(NamedTuple):
    """Of one size. `failed`: {kind: one sentence} of those that could not run."""

    size: Size
    sides: dict             # {kind: Side}
    failed: dict

    def ratio(self, kind):
        """The `Ratio` of a side to ours."""
        ours, other = self.sides["ours"], self.sides[kind]
        each = [statistics.median(theirs) / statistics.median(our)
                for theirs, our in zip(other.rounds, ours.rounds, strict=True)]
        return Ratio(other.seconds / ours.seconds, *quartiles(each))


def torch_is_installed():
    """Whether there is something to compare with."""
    return importlib.util.find_spec("torch") is not None


def compare(size, *, backend=None, workers=None, kinds=KINDS, rounds=ROUNDS, say=lambda text: None):
    """Let the sides make steps of one size in turns: a `Comparison`.

    backend, workers: of ours, None for what a model takes by itself. say(text) is told what is going on. A side that
    cannot run is named in `failed`; without PyTorch that is both of its sides. Raises ChildProcessError where ours
    cannot run.
    """
    failed = {}
    if not torch_is_installed():
        failed = {kind: NO_TORCH for kind in kinds if kind != "ours"}
    with ExitStack() as stack:
        running, seconds = {}, 0.0
        for kind in kinds:
            if kind in failed:
                continue
            say(f"comparison, {size.name}: warming up, {kind}")
            try:
                contestant = stack.enter_context(_contestant(kind, size, backend, workers))
                seconds = max(seconds, contestant.steps(2)["seconds"][-1])
                running[kind] = contestant
            except ChildProcessError as error:
                if kind == "ours":
                    raise
                failed[kind] = str(error)
        count = min(max(round(TURN_SECONDS / seconds), FEWEST), MOST)
        turns = {kind: [] for kind in running}
        for number in range(rounds):
            for kind, contestant in running.items():
                say(f"comparison, {size.name}: round {number + 1} of {rounds}, {kind}")
                # The first step of a turn finds the caches full of what others left there, and does not count.
                turns[kind].append(contestant.steps(count + 1)["seconds"][1:])
        facts = {kind: contestant.facts for kind, contestant in running.items()}
    say(f"comparison, {size.name}: peak memory")
    sides = {kind: Side(kind, facts[kind], turns[kind], _peak(kind, size, backend, workers)) for kind in running}
    return Comparison(size, sides, failed)


def _peak(kind, size, backend, workers):
    """The memory of a warm-up step and another one in a fresh process; None for a model that compiles itself first."""
    if kind == "compiled":
        return None
    with _contestant(kind, size, backend, workers) as contestant:
        return contestant.steps(2)["peak"]


def _contestant(kind, size, backend, workers):
    return Contestant(kind, size, **({"backend": backend, "workers": workers} if kind == "ours" else {}))
