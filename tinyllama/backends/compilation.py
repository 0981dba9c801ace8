"""Compiling the kernels of a backend, with a bar where that takes a while: once after an installation."""

import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

PATIENCE = 0.5      # seconds: kernels that lie compiled on the disk are read in less


def compile_with_bar(backend, dtype, console):
    """Compile all kernels that a model of this backend and dtype may use, or read those compiled earlier.

    console: where the bar is drawn, if it is a terminal or a notebook.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    progress, start = Progress(*columns, console=console, transient=True), time.perf_counter()
    has_a_place = console.is_terminal or console.is_jupyter
    task = progress.add_task("Compiling kernels, once on this machine", total=None)
    try:
        for done, total in backend.compile_kernels(dtype):
            progress.update(task, completed=done, total=total)
            if has_a_place and time.perf_counter() - start > PATIENCE and not progress.live.is_started:
                progress.start()
    finally:
        if progress.live.is_started:
            progress.stop()
