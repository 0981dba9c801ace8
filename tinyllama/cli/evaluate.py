"""`tinyllama evaluate`: how well a model predicts a text."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tinyllama.cli.paths import path

SEED, STORIES = -1, 1000        # stories that no run trains on, whose seeds are not negative


def evaluate(
    model: Annotated[Path, typer.Argument(
        help="The directory of a trained model, such as runs/stories-1.", parser=path)],
    data: Annotated[str, typer.Option(
        help='"stories" (a thousand that no run has seen), "shakespeare", or the path of a UTF-8 text file or a folder '
             "of them.")],
    backend: Annotated[str | None, typer.Option(
        help="Which backend computes; numba if not given, or numpy where Numba cannot be used.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
):
    """Predict every token of a text: loss, perplexity and bits per byte."""
    from rich.console import Console

    from tinyllama.backends.compilation import compile_with_bar
    from tinyllama.data import read_corpus
    from tinyllama.formats import load
    from tinyllama.tokenizers import load_tokenizer
    from tinyllama.training.evaluation import evaluate_text
    corpus = read_corpus(data, seed=SEED, stories_wanted=STORIES)
    llama = load(model, backend=backend)
    compile_with_bar(llama.backend, llama.dtype, Console(stderr=True))
    result = evaluate_text(llama, load_tokenizer(model), corpus)
    if as_json:
        print(json.dumps(result._asdict() | {"excess": result.excess}, indent=2))
        return
    print(f"loss            {result.loss:.4f} nats per token")
    print(f"perplexity      {result.perplexity:.3f}")
    print(f"bits per byte   {result.bits_per_byte:.4f}")
    print(f"predicted       {result.tokens:,} tokens, {result.bytes:,} bytes")
    if result.entropy is not None:
        print(f"entropy         {result.entropy:.4f} nats per token, the loss of the true source on this very text")
        print(f"excess          {result.excess:.4f} nats per token")
