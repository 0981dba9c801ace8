"""The table of every gradient and its error: each operation on its cases, then a whole LLaMA."""

import itertools
from typing import NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from tinyllama.backends import load_backend
from tinyllama.course.cases import cases
from tinyllama.gradients import GradientError, gradcheck, gradcheck_model
from tinyllama.models import Llama, LlamaConfig
from tinyllama.ops import DIFFERENTIABLE

WHOLE_MODEL = "llama"

_SMALL = {"vocab_size": 13, "hidden_size": 12, "intermediate_size": 10, "num_hidden_layers": 3,
          "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 8,
          "tie_word_embeddings": True, "initializer_range": 0.4}
MODELS = {
    "grouped queries, RoPE, tied embeddings": {},
    "the same, with two layers that share weights": {"num_unique_layers": 2},
    "GPT-2's parts: LayerNorm, GELU, learned positions": {
        "norm": "layernorm", "mlp": "gelu", "positions": "learned", "tie_word_embeddings": False},
}


class TableRow(NamedTuple):
    """One line of the table. `failure` is the message of the error, None where the gradient is right."""

    name: str
    label: str
    gradients: int      # how many gradients were compared
    error: float        # the largest relative error of any of them
    allowed: float
    failure: str | None


def gradient_table(names=None, *, backend="numpy"):
    """Check the operations `names`, or all and a whole LLaMA ("llama"): an iterator of a `TableRow` for each case.

    Raises ValueError, before the first row, for a name that is no operation or no backend.
    """
    backend = load_backend(backend) if isinstance(backend, str) else backend
    known = (*DIFFERENTIABLE, WHOLE_MODEL)
    for name in names or ():
        if name not in known:
            raise ValueError(f"op: expected one of {', '.join(known)}, got {name!r}")
    return itertools.chain.from_iterable(
        _model_rows(backend) if name == WHOLE_MODEL else _op_rows(name, backend) for name in names or known)


def _op_rows(name, backend):
    forward, backward = getattr(backend, f"{name}_forward"), getattr(backend, f"{name}_backward")
    for case in cases(name):
        yield _row(name, case.label, 1e-7,
                   lambda case=case: gradcheck(forward, backward, *case.arrays, **case.settings))


def _model_rows(backend):
    for label, changes in MODELS.items():
        rng = np.random.default_rng(0)
        model = Llama(LlamaConfig(**{**_SMALL, **changes}), backend=backend, dtype="float64")
        for weight in model.parameters.values():
            if weight.ndim == 1:        # norms and biases away from 1 and 0, where a mistake could hide
                weight[...] = rng.normal(0.5, 0.5, weight.shape)
        ids, targets = rng.integers(0, 13, (2, 3, 5))                           # (B, T) each
        ids[:, 3] = ids[:, 0]           # a token that is there twice
        targets[0, 2:] = -100           # rows with unequal numbers of targets
        yield _row(WHOLE_MODEL, label, 1e-6, lambda model=model, ids=ids, targets=targets:
                   gradcheck_model(model, ids, targets))


def _row(name, label, allowed, check):
    failure = None
    try:
        report = check()
    except GradientError as error:
        failure, report = str(error), error.report
    if report is None:
        return TableRow(name, label, 0, float("inf"), allowed, failure)
    return TableRow(name, label, len(report.rows), report.error, allowed, failure)


def print_gradient_table(rows):
    """Print one line for each function, with the largest error of its cases, as they come; returns the rows as a list.

    Below the table stands the message of every gradient that is wrong.
    """
    console = Console()
    by_name = {}
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for row in rows:
            by_name.setdefault(row.name, []).append(row)
            live.update(_rendered(by_name), refresh=True)
    console.print(_rendered(by_name))
    rows = [row for group in by_name.values() for row in group]
    for row in rows:
        if row.failure:
            console.print(f"{row.name}, {row.label}: {row.failure}", markup=False, highlight=False, soft_wrap=True)
    return rows


def _rendered(by_name):
    table = Table(title="backward against central differences, float64", box=box.SIMPLE_HEAD)
    for heading in ("function", "cases", "gradients", "largest error", "allowed", ""):
        table.add_column(heading, justify="left" if heading in ("function", "") else "right")
    for name, rows in by_name.items():
        table.add_row(name, str(len(rows)), str(sum(row.gradients for row in rows)),
                      f"{np.max([row.error for row in rows]):.1e}", f"{rows[0].allowed:.0e}",
                      "WRONG" if any(row.failure for row in rows) else "right")
    return table
