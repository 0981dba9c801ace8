"""`tinyllama train`: from text to a trained model."""

from pathlib import Path
from typing import Annotated

import typer


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
