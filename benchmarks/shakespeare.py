"""How long training takes to learn Shakespeare to a given validation loss, beside PyTorch eager.

    python benchmarks/shakespeare.py tinyshakespeare.txt
    python benchmarks/shakespeare.py tinyshakespeare.txt --race nanogpt --backend numba

Two races of models of characters with 4 layers, 4 heads, 128 features, a context of 64 and batches of 12:

    nanogpt     to 1.88: nanoGPT's recipe for a CPU, a GPT-2 and 2,000 steps that peak at 1e-3, against our LLaMA with
                500 steps that peak at 2e-3 and first weights of 0.06. Where the recipe ends above the target, as it
                may, its whole time stands for what it would need at least
    llama       to 1.70: our LLaMA against the same in PyTorch, with the same first weights and learning rates

The text is split and encoded as `tinyllama train --data FILE` does it, and all see the same batches, made beforehand.
What counts is the time of the training steps. Not counted are set-up, evaluations, and one step of a copy of the model,
in which kernels are compiled or loaded (`first_step_s`). Every 50 steps, 100 fixed batches of the held-back tenth are
evaluated; the time to the target is interpolated between two evaluations, and there a run stops.

Each run has a process of its own. They alternate, ours and theirs, and the medians of the repeats are compared. Prints
a JSON line for each run, with the fastest and the slowest 50 steps, and a sentence for each race. Needs PyTorch, and a
machine that does nothing else, for about 5 to 8 minutes a race on 2 cores.
"""

import argparse
import copy
import importlib.util
import itertools
import json
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import tinyllama as tl
from tinyllama.backends.memory import keep_freed_memory
from tinyllama.backends.threads import cores
from tinyllama.data import validation_windows
from tinyllama.training.preparation import prepare
from tinyllama.training.settings import RunSettings
from tinyllama.training.trainer import evaluate, train

EVALUATE_EVERY = 50
VALIDATION_BATCHES = 100
# So many first losses of the two equal LLaMAs agree to this. Ten of them to 1e-3 would let one without RoPE pass.
SAME_LOSSES, TOLERANCE = 50, 1e-5


class Race(NamedTuple):
    """What two models are trained for, and how. The settings are those of a run, beside its defaults."""

    target: float           # the validation loss
    bar: float              # what part of their time ours may take
    beyond: float           # and what part would be better still
    theirs: str             # "GPT" or "Llama", in PyTorch
    our_settings: dict
    their_settings: dict


RACES = {
    "nanogpt": Race(1.88, 1 / 4, 1 / 6, "GPT",
                    {"steps": 500, "learning_rate": 2e-3, "warmup_steps": 100, "initializer_range": 0.06},
                    {"steps": 2000}),
    "llama": Race(1.70, 0.8, 0.6, "Llama", {"steps": 2000}, {"steps": 2000}),
}


class Run(NamedTuple):
    """One training, up to the target or to its last step."""

    model: str
    first_step: float       # seconds, not part of the following
    losses: list            # of the batch of every step
    evaluations: list       # (steps, seconds of training, validation loss), the first before any step

    def seconds_to(self, target):
        """How long it took to bring the validation loss down to the target; None where it never came there."""
        for (_, start, above), (_, end, loss) in itertools.pairwise(self.evaluations):
            if loss <= target:
                return start + (end - start) * (above - target) / (above - loss)
        return None


def run_ours(settings, target, backend):
    """Train our LLaMA; backend None is its own default."""
    keep_freed_memory()         # as a training run does
    config, batches, validation = read_task(settings)
    model = tl.Llama(config, seed=settings.seed, **({} if backend is None else {"backend": backend}))

    def losses_of(model):
        return (float(report.loss) for report in train(model, batches.__getitem__, settings.training()))

    first_step, _ = seconds(lambda: next(losses_of(copy.deepcopy(model))))
    return Run(f"tinyllama, {model.backend.name}", first_step,
               *follow(losses_of(model), lambda: evaluate(model, validation).loss, target))


def run_theirs(settings, target, name):
    """Train a GPT-2 or a LLaMA in PyTorch; a LLaMA begins with the weights of ours."""
    import torch
    import torch_models

    from tinyllama.bench.torch_llama import torch_llama
    torch.set_num_threads(cores())
    torch.manual_seed(settings.seed)
    config, *parts = read_task(settings)
    batches, validation = ([tuple(map(torch.from_numpy, batch)) for batch in part] for part in parts)
    model = {"GPT": torch_models.GPT, "Llama": torch_llama}[name](config)
    if name == "Llama":
        weights = tl.Llama(config, seed=settings.seed).parameters
        model.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()})

    def losses_of(model):
        return torch_models.train(model, batches, settings.training())

    first_step, _ = seconds(lambda: next(losses_of(copy.deepcopy(model))))
    return Run(f"PyTorch, {name}", first_step,
               *follow(losses_of(model), lambda: torch_models.evaluate(model, validation), target))


def read_task(settings):
    """(configuration of the model, a batch for each step, batches to validate with); a batch is (ids, targets)."""
    preparation = prepare(settings)
    validation = validation_windows(preparation.held_back, batch_size=settings.batch_size, context=settings.context,
                                    batches=VALIDATION_BATCHES)
    return (preparation.config, [preparation.batches.batch(step)[:2] for step in range(settings.steps)],
            [batch[:2] for batch in validation])


def follow(steps, validation_loss, target):
    """Make the steps, an iterator of their losses, until the target or the end: (losses, evaluations) of a `Run`."""
    losses, evaluations, total = [], [(0, 0.0, validation_loss())], 0.0
    while evaluations[-1][2] > target:
        elapsed, part = seconds(lambda: list(itertools.islice(steps, EVALUATE_EVERY)))
        if not part:
            break
        losses += part
        total += elapsed
        evaluations.append((len(losses), total, validation_loss()))
    return losses, evaluations


def seconds(function):
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def in_new_process(function, *arguments):
    """What a function returns that is called in a process without any history."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def hold(name, race, *, data, backend, repeats):
    """Run a race, print its lines, and return the sentence that sums it up."""
    ours, theirs = [], []
    for _ in range(repeats):
        for runs, function, settings, which in ((ours, run_ours, race.our_settings, backend),
                                                (theirs, run_theirs, race.their_settings, race.theirs)):
            run = in_new_process(function, RunSettings(data=data, **settings), race.target, which)
            runs.append(run)
            print(json.dumps(facts(name, run, race.target)), flush=True)
        if race.theirs == "Llama":
            require_the_same(ours[-1], theirs[-1])
    return verdict(name, race, ours, theirs)


def facts(name, run, target):
    steps, total, loss = run.evaluations[-1]
    reached = run.seconds_to(target)
    pieces = [(b[1] - a[1]) / (b[0] - a[0]) * 1e3 for a, b in itertools.pairwise(run.evaluations)]
    return {"race": name, "model": run.model, "seconds_to_target": reached and round(reached, 2), "steps": steps,
            "validation_loss": round(loss, 4), "ms_per_step": round(total / steps * 1e3, 2),
            "ms_fastest_piece": round(min(pieces), 2), "ms_slowest_piece": round(max(pieces), 2),
            "first_step_s": round(run.first_step, 2)}


def require_the_same(ours, theirs):
    """End with a sentence unless two LLaMAs have had the same first losses."""
    largest = max(abs(a - b) for a, b in zip(ours.losses[:SAME_LOSSES], theirs.losses[:SAME_LOSSES], strict=True))
    if not largest <= TOLERANCE:
        raise SystemExit(f"llama: expected the same first {SAME_LOSSES} losses to {TOLERANCE}, got a difference of "
                         f"{largest:.2g}: the two models are not the same")


def verdict(name, race, ours, theirs):
    """The medians beside each other. Where their model never reached the target, it is given the time of its run."""
    our_times = [run.seconds_to(race.target) for run in ours]
    if None in our_times:
        return f"{name}: {ours[0].model} did not reach {race.target} in {len(ours[0].losses):,} steps."
    their_times = [run.seconds_to(race.target) for run in theirs]
    at_least = "at least " if None in their_times else ""
    their_times = [time or run.evaluations[-1][1] for time, run in zip(their_times, theirs, strict=True)]
    our_time, their_time = statistics.median(our_times), statistics.median(their_times)
    ratio = our_time / their_time
    met = "not met" if ratio > race.bar else "met" if ratio > race.beyond else "met, and beyond"
    return (f"{name}: to a validation loss of {race.target}, {ours[0].model} needs {our_time:.1f} s and "
            f"{theirs[0].model} {at_least}{their_time:.1f} s, {ratio:.3f} of it; the bar of {race.bar:.3f} "
            f"(beyond: {race.beyond:.3f}) is {met}.")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--race", choices=RACES, help="one of them, if not both")
    parser.add_argument("--backend", choices=tl.available_backends(), help="ours; the default of Llama if not given")
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        raise SystemExit("torch: expected PyTorch to measure against, got none installed; pip install torch")
    if not arguments.data.is_file():
        parser.error(f"data: expected a text file, got {arguments.data}, where none is")
    if arguments.repeats < 1:
        parser.error(f"repeats: expected at least 1, got {arguments.repeats}")
    names = [arguments.race] if arguments.race else list(RACES)
    for name in names:
        print(hold(name, RACES[name], data=arguments.data, backend=arguments.backend, repeats=arguments.repeats),
              flush=True)


if __name__ == "__main__":
    main()
