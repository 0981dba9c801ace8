"""Compiling the kernels of a backend, with a bar where that takes a while: once after an installation."""

import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

PATIENCE = 0.5      # seconds: kernels that lie compiled on the disk are read in less


def compile_with_bar(model, console):
    """Compile all kernels that `model` may use, or read those compiled earlier."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    progress, start = Progress(*columns, console=console, transient=True), time.perf_counter()
    task = progress.add_task("Compiling kernels, once on this machine", total=None)
    try:
        for done, total in model.backend.compile_kernels(model.dtype):
            progress.update(task, completed=done, total=total)
            if time.perf_counter() - start > PATIENCE and not progress.live.is_started:
                progress.start()
    finally:
        if progress.live.is_started:
            progress.stop()
