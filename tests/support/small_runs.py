"""Training runs so small that they take a moment, and what one leaves behind, to be compared byte for byte."""

import io

from rich.console import Console

from tinyllama.training import preparation
from tinyllama.training import run as run_module
from tinyllama.training.forecast import Forecast
from tinyllama.training.run import resume_training, run_training
from tinyllama.training.settings import RunSettings

TEXT = "".join(f"the {animal} sat on the {thing} and had {number} of them.\n"
               for animal in ("cat", "dog", "fox") for thing in ("mat", "log", "box") for number in range(10, 16))
# So high a learning rate that the best model is not always the last one.
SETTINGS = {"steps": 30, "batch_size": 3, "context": 8, "layers": 1, "hidden_size": 8, "heads": 2, "dropout": 0.1,
            "learning_rate": 0.03, "evaluate_every": 3, "workers": 2}


def only_the_training(patch):
    """Leave out what a run does besides and takes most of its time. patch: a function like `monkeypatch.setattr`."""
    patch(preparation, "VALIDATION_BATCHES", 2)
    patch(run_module, "forecast", lambda *_, **__: Forecast(0.0, 0))
    patch(run_module._Run, "_draw", lambda self: None)
    patch(run_module._Run, "_show_sample", lambda self: None)


def start(settings):
    """Make a new run; returns what it said."""
    return _said(lambda console: run_training(RunSettings(**SETTINGS | settings), console))


def resume(out):
    """Go on with a run; returns what it said."""
    return _said(lambda console: resume_training(out, console))


def contents(out):
    """{path: bytes} of every file of a run, but for run.json, which names its directory, and TensorBoard's times."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*"))
            if path.is_file() and path.name != "run.json" and path.parent.name != "tensorboard"}


def _said(run):
    screen = io.StringIO()
    run(Console(file=screen, width=100))
    return screen.getvalue()
