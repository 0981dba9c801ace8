"""The figures of a run as it goes: one JSON object a line in metrics.jsonl, and TensorBoard's files where it can.

    {"step": 12, "loss": 3.41, "gradient_norm": 1.2, "learning_rate": 0.0003}
    {"step": 250, "validation_loss": 2.07}

A step counts the updates made.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import time
from pathlib import Path

from tinyllama.training.checkpoints import replace_text

FILE = "metrics.jsonl"
BOARD = "tensorboard"


class MetricsLog:
    """Appends to the metrics of the run in a directory, from `first_step` on: what lies after it is dropped.

    TensorBoard's event file is written too, where the package tensorboardX is installed. A context manager. Raises
    OSError where the directory cannot be written, ValueError where metrics.jsonl is damaged.
    """

    def __init__(self, run, first_step):
        file = Path(run) / FILE
        kept = [row for row in _rows(file) if row["step"] <= first_step]
        replace_text(file, "".join(map(_line, kept)))
        self._board = None
        with contextlib.ExitStack() as stack:
            self._file = stack.enter_context(open(file, "a", encoding="utf-8"))
            if importlib.util.find_spec("tensorboardX"):
                self._board = stack.enter_context(contextlib.closing(_Board(Path(run) / BOARD)))
                for row in kept:
                    self._board.write(row)
            self._files = stack.pop_all()       # which stay open until __exit__

    def write(self, step, **figures):
        """Write the figures of one step: a line, and a scalar of each name."""
        row = {"step": step, **figures}
        self._file.write(_line(row))
        if self._board:
            self._board.write(row)

    def flush(self):
        """Put on the disk what was written so far; done before a checkpoint that counts on it."""
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._board:
            self._board.flush()

    def __enter__(self):
        return self

    def __exit__(self, *details):
        return self._files.__exit__(*details)


class _Board:
    """TensorBoard's event file, alone in a folder and begun anew.

    tensorboardX's SummaryWriter is no help: its thread dies of a full disk, and the training that feeds it then waits
    for ever; and it can only append, so that a resumed run would have steps twice, or not at all.
    """

    def __init__(self, folder):
        from tensorboardX.record_writer import RecordWriter
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        self._records = RecordWriter(str(folder / f"events.out.tfevents.{int(time.time())}.tinyllama"))
        self._write(file_version="brain.Event:2")

    def write(self, row):
        from tensorboardX.proto.summary_pb2 import Summary
        values = [Summary.Value(tag=name, simple_value=figure) for name, figure in row.items() if name != "step"]
        self._write(step=row["step"], summary=Summary(value=values))

    def _write(self, **facts):
        from tensorboardX.proto.event_pb2 import Event
        self._records.write(Event(wall_time=time.time(), **facts).SerializeToString())

    def flush(self):
        self._records.flush()

    def close(self):
        self._records.close()


def read_metrics(run):
    """(the loss of every step, [(step, validation loss), ...]) of the run in a directory.

    Raises ValueError where a line is damaged.
    """
    rows = _rows(Path(run) / FILE)
    losses = [row["loss"] for row in rows if "loss" in row]
    return losses, [(row["step"], row["validation_loss"]) for row in rows if "validation_loss" in row]


def _line(row):
    return json.dumps(row, allow_nan=False) + "\n"


def _rows(file):
    """What the lines of the file say, if there is one. A last one without an end is left out: a kill came between."""
    rows = []
    *lines, _ = file.read_bytes().split(b"\n") if file.exists() else [b""]
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            row["step"] + 0
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f'{file}: expected a JSON object with a "step" in line {number}, got a line that is '
                             f"damaged ({line[:40]!r}); without it, or without the file, the run can go on") from error
        rows.append(row)
    return rows
