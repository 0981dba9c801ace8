"""The command line: `tinyllama ...`. Each command reads its arguments here and does its work elsewhere.

The heavy imports stand inside the commands, so that `tinyllama --help` answers at once.
"""

import contextlib
import json
import math
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="A LLaMA from scratch: train it, prove its gradients, let it write.")


@app.callback()
def root():
    """A LLaMA from scratch: train it, prove its gradients, let it write."""


@app.command()
def train(
    data: Annotated[str, typer.Option(help='"shakespeare", or the path of a UTF-8 text file.')] = "shakespeare",
    out: Annotated[Path | None, typer.Option(help="Where to save it; runs/NAME-1, -2, ... if not given.")] = None,
    steps: Annotated[int, typer.Option(help="Updates of the weights.")] = 2000,
    batch_size: Annotated[int, typer.Option(help="Rows of a batch.")] = 12,
    context: Annotated[int, typer.Option(help="Characters of a row: how far the model sees back.")] = 64,
    layers: Annotated[int, typer.Option(help="Blocks, one after the other.")] = 4,
    hidden_size: Annotated[int, typer.Option(help="Features of a token.")] = 128,
    intermediate_size: Annotated[int | None, typer.Option(
        help="Features inside the MLP; 8/3 of hidden-size if not given.")] = None,
    heads: Annotated[int, typer.Option(help="Heads of attention, a divisor of hidden-size.")] = 4,
    key_value_heads: Annotated[int | None, typer.Option(
        help="Heads of keys and values, which groups of heads share; as many as heads if not given.")] = None,
    learning_rate: Annotated[float, typer.Option(help="The peak, after the warm-up.")] = 1e-3,
    dropout: Annotated[float, typer.Option(help="The rate of dropout while training.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Draws the weights, the batches and the dropout.")] = 0,
    backend: Annotated[str, typer.Option(help="Which backend computes.")] = "numpy",
    workers: Annotated[int | None, typer.Option(help="Threads that share a step; found out if not given.")] = None,
):
    """Train a character model on real text, show a sample, save the model and a plot of the loss."""
    from tinyllama.training.run import RunSettings, run_training
    run_training(RunSettings(
        data=data, out=out, steps=steps, batch_size=batch_size, context=context, layers=layers,
        hidden_size=hidden_size, intermediate_size=intermediate_size, heads=heads, key_value_heads=key_value_heads,
        learning_rate=learning_rate, dropout=dropout, seed=seed, backend=backend, workers=workers))


@app.command()
def generate(
    model: Annotated[Path, typer.Argument(help="The directory of a trained model, such as runs/shakespeare-1.")],
    prompt: Annotated[str | None, typer.Option(help="The text to continue; a new line if not given.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="How many tokens to write.")] = 500,
    temperature: Annotated[float, typer.Option(help="0 always takes the most probable token.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k most probable.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the fewest that reach probability p together.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Draw from those with at least p times the best's.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed writes the same text.")] = 0,
    backend: Annotated[str, typer.Option(help="Which backend computes.")] = "numpy",
    stop_at_limit: Annotated[bool, typer.Option(
        "--stop-at-limit", help="Stop when the context is full, instead of forgetting the oldest half.")] = False,
):
    """Continue a prompt, showing every token as it is drawn."""
    from tinyllama.formats import load
    from tinyllama.generation.writing import write
    from tinyllama.tokenizers import load_tokenizer
    llama, tokenizer = load(model, backend=backend), load_tokenizer(model)
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


@app.command()
def gradcheck(
    ops: Annotated[list[str] | None, typer.Argument(help='Operations, or "llama"; all if none is named.')] = None,
    backend: Annotated[str, typer.Option(help="Whose functions are checked.")] = "numpy",
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
):
    """Check every gradient against differences, and print its error. Exits with 1 if one is wrong."""
    from tinyllama.course.gradient_table import gradient_table, print_gradient_table
    rows = gradient_table(ops, backend=backend)
    if as_json:
        rows = list(rows)
        finite = [row if math.isfinite(row.error) else row._replace(error=None) for row in rows]    # as JSON wants it
        print(json.dumps([row._asdict() for row in finite], indent=2, ensure_ascii=False))
    else:
        rows = print_gradient_table(rows)
    if any(row.failure for row in rows):
        raise typer.Exit(1)


def main():
    """Run a command. A mistake of the user is one line on standard error and exit code 2, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):       # a terminal that cannot show a character shows "?" for it
            stream.reconfigure(errors="replace")
    warnings.formatwarning = lambda message, *_: f"tinyllama: {message}\n"
    warnings.filterwarnings("ignore", message=".*goes on with the last half")       # what `generate` was asked to do
    try:
        app()
    except (ValueError, TypeError, OSError, MemoryError, OverflowError) as error:
        print(f"tinyllama: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
