"""`tinyllama generate`: text from a model."""

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from tinyllama.cli.models import WEIGHTS_HELP
from tinyllama.cli.paths import model as model_path
from tinyllama.cli.paths import path


def generate(
    model: Annotated[Path, typer.Argument(
        help="The directory of a trained model, such as runs/shakespeare-1, one of Hugging Face, a GGUF file, one of "
             "llama2.c, or the name of an installed package that holds a GGUF file.", parser=model_path)],
    prompt: Annotated[str | None, typer.Option(help="The text to continue; a new line if not given.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="How many tokens to write.")] = 500,
    temperature: Annotated[float, typer.Option(help="0 always takes the most probable token.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k most probable.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the fewest that reach probability p together.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Draw from those with at least p times the best's.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed writes the same text.")] = 0,
    weights: Annotated[str, typer.Option(help=WEIGHTS_HELP)] = "auto",
    tokenizer: Annotated[Path | None, typer.Option(
        help="The tokenizer; that of the model if not given, or tokenizer.bin beside a file of llama2.c.",
        parser=path)] = None,
    backend: Annotated[str | None, typer.Option(
        help="Which backend computes; numba if not given, or numpy where Numba cannot be used.")] = None,
    stop_at_limit: Annotated[bool, typer.Option(
        "--stop-at-limit", help="Stop when the context is full, instead of forgetting the oldest half.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the text and its figures as JSON.")] = False,
):
    """Continue a prompt, showing every token as it is drawn."""
    from tinyllama.cli.models import open_model
    from tinyllama.generation import writing
    from tinyllama.generation.timing import Timing
    llama, words = open_model(model, weights=weights, backend=backend, tokenizer=tokenizer)
    timing = Timing()
    pieces = writing.write(llama, words, prompt, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k,
                           top_p=top_p, min_p=min_p, seed=seed, on_limit="stop" if stop_at_limit else "slide",
                           watch=timing.watch)
    with warnings.catch_warnings(record=True) as notes:     # that the context is full stands below the text, not in it
        if as_json:
            text = "".join(pieces)
        else:
            _show(prompt, pieces)
    for note in notes:
        print(f"tinyllama: {note.message}", file=sys.stderr)
    if as_json:
        prompt_tokens = len(writing.first_tokens(llama, words, prompt))
        print(json.dumps({"prompt": prompt, "text": text, "tokens": timing.count, "prompt_tokens": prompt_tokens,
                          "seconds_to_first_token": timing.reading, "tokens_per_second": timing.rate},
                         indent=2, ensure_ascii=False))
    elif sys.stderr.isatty() and timing.rate:
        print(f"[{timing.count} tokens, {timing.rate:.0f} a second, the first after {timing.reading:.1f} s]",
              file=sys.stderr)


def _show(prompt, pieces):
    sys.stdout.write(prompt or "")
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    print(flush=True)
