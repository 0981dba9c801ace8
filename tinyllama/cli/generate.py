"""`tinyllama generate`: text from a trained model."""

import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from tinyllama.cli.paths import path


def generate(
    model: Annotated[Path, typer.Argument(
        help="The directory of a trained model, such as runs/shakespeare-1.", parser=path)],
    prompt: Annotated[str | None, typer.Option(help="The text to continue; a new line if not given.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="How many tokens to write.")] = 500,
    temperature: Annotated[float, typer.Option(help="0 always takes the most probable token.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k most probable.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the fewest that reach probability p together.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Draw from those with at least p times the best's.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed writes the same text.")] = 0,
    backend: Annotated[str | None, typer.Option(
        help="Which backend computes; numba if not given, or numpy where Numba cannot be used.")] = None,
    weights: Annotated[str, typer.Option(
        help="float32, or int8: a quarter of the memory, faster, and a little less exact.")] = "float32",
    stop_at_limit: Annotated[bool, typer.Option(
        "--stop-at-limit", help="Stop when the context is full, instead of forgetting the oldest half.")] = False,
):
    """Continue a prompt, showing every token as it is drawn."""
    from rich.console import Console

    from tinyllama.backends.compilation import compile_with_bar
    from tinyllama.formats import load
    from tinyllama.generation.writing import write
    from tinyllama.models.quantization import quantize
    from tinyllama.tokenizers import load_tokenizer
    if weights not in ("float32", "int8"):
        raise ValueError(f"--weights: expected float32 or int8, got {weights!r}")
    llama, tokenizer = load(model, backend=backend), load_tokenizer(model)
    if weights == "int8":
        llama = quantize(llama)
    compile_with_bar(llama.backend, llama.dtype, Console(stderr=True))
    pieces = write(llama, tokenizer, prompt, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k,
                   top_p=top_p, min_p=min_p, seed=seed, on_limit="stop" if stop_at_limit else "slide")
    sys.stdout.write(prompt or "")
    with warnings.catch_warnings(record=True) as notes:     # that the context is full stands below the text, not in it
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
    print(flush=True)
    for note in notes:
        print(f"tinyllama: {note.message}", file=sys.stderr)
