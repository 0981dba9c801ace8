"""The figures of a run as it goes: one JSON object a line in metrics.jsonl, and TensorBoard's files where it can.

    {"step": 12, "loss": 3.41, "gradient_norm": 1.2, "learning_rate": 0.0003}
    {"step": 250, "validation_loss": 2.07}

A step counts the updates made.
"""

import importlib.util
import json
import os
from pathlib import Path

FILE = "metrics.jsonl"


class MetricsLog:
    """Appends to the metrics of the run in a directory, from `first_step` on: what lies after it is dropped.

    TensorBoard event files are written too, where the package tensorboardX is installed. A context manager. Raises
    OSError where the directory cannot be written.
    """

    def __init__(self, run, first_step):
        file = Path(run) / FILE
        kept = "".join(line for line in _lines(file) if json.loads(line)["step"] <= first_step)
        new = file.with_name(f"{FILE}.new")
        new.write_text(kept, encoding="utf-8")
        os.replace(new, file)
        self._file = open(file, "a", encoding="utf-8")      # noqa: SIM115, closed by __exit__
        self._board = None
        if importlib.util.find_spec("tensorboardX"):
            from tensorboardX import SummaryWriter
            self._board = SummaryWriter(str(Path(run) / "tensorboard"), purge_step=first_step + 1)

    def write(self, step, **figures):
        """Write the figures of one step: a line, and a scalar of each name."""
        self._file.write(json.dumps({"step": step, **figures}, allow_nan=False) + "\n")
        for name, figure in figures.items() if self._board else ():
            self._board.add_scalar(name, figure, step)

    def flush(self):
        """Put on the disk what was written so far; done before a checkpoint that counts on it."""
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._board:
            self._board.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()
        if self._board:
            self._board.close()


def read_metrics(run):
    """(the loss of every step, [(step, validation loss), ...]) of the run in a directory."""
    rows = [json.loads(line) for line in _lines(Path(run) / FILE)]
    losses = [row["loss"] for row in rows if "loss" in row]
    return losses, [(row["step"], row["validation_loss"]) for row in rows if "validation_loss" in row]


def _lines(file):
    """The whole lines of the file, if there is one: the last may be torn where the process was killed."""
    if not file.exists():
        return []
    return [line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("}\n")]
