"""`tinyllama convert`: a model from one format to another."""

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from tinyllama.cli.paths import model as model_path
from tinyllama.cli.paths import path

LARGE = 2**24       # weights, from which on there is time to look at a bar


def convert(
    source: Annotated[Path, typer.Argument(
        metavar="SRC", help="A directory of Hugging Face or of `tinyllama train`, or a file of GGUF or llama2.c.",
        parser=model_path)],
    destination: Annotated[Path, typer.Argument(
        metavar="DST", help="A directory, or a file of llama2.c where the name ends in .bin.", parser=path)],
    dtype: Annotated[str | None, typer.Option(
        help="float32, float16 or bfloat16; as in the source if not given, float32 where that is quantised.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(
        help="The tokenizer, where the source has none of its own, as a file of llama2.c; tokenizer.bin beside it if "
             "not given.", parser=path)] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a model that is at DST.")] = False,
):
    """Write a model in another format: for `transformers`, or for llama2.c. Quantised weights become floats."""
    from tinyllama.formats.conversion import convert as convert_model
    with _bar() as watch:
        done = convert_model(source, destination, dtype, tokenizer=tokenizer, overwrite=force, watch=watch)
    beside = f", with {', '.join(done.companions)}" if done.companions else ""
    print(f"Wrote {done.destination}: {done.parameters:,} weights in {done.dtype}{beside}.")
    if done.no_tokenizer:
        print(f"Without a tokenizer: {done.no_tokenizer}")


@contextlib.contextmanager
def _bar():
    """Gives watch(done, total), which moves a bar on a terminal where there is much to do."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", visible=False)

        def watch(done, total):
            progress.update(task, completed=done, total=total, visible=total >= LARGE,
                            description="reading" if done < total else "writing")

        yield watch
