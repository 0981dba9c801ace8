"""`tinyllama evaluate`: how well a model predicts a text, and what it costs to hold its weights in fewer bits."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from tinyllama.cli.models import WEIGHTS_HELP
from tinyllama.cli.paths import model as model_path
from tinyllama.cli.paths import path

SEED, STORIES = -1, 1000        # stories that no run trains on, whose seeds are not negative
PROMPT, WRITTEN = 16, 65        # tokens of the text that are continued, and of what follows, to see how fast that goes


def evaluate(
    model: Annotated[Path, typer.Argument(
        help="The directory of a trained model, such as runs/stories-1, one of Hugging Face, a GGUF file, one of "
             "llama2.c, or the name of an installed package that holds a GGUF file.", parser=model_path)],
    data: Annotated[str, typer.Option(
        help='"stories" (a thousand that no run has seen), "shakespeare", or the path of a UTF-8 text file or a folder '
             "of them.")],
    weights: Annotated[str, typer.Option(help=WEIGHTS_HELP)] = "auto",
    compare_weights: Annotated[str | None, typer.Option(
        help="Instead: a table of several, such as float32,int8,int4, with what each costs.")] = None,
    context: Annotated[int | None, typer.Option(
        help="Longer texts are cut into pieces of so many tokens; the model's context if not given, but no more than "
             "2048.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(
        help="The tokenizer; that of the model if not given, or tokenizer.bin beside a file of llama2.c.",
        parser=path)] = None,
    backend: Annotated[str | None, typer.Option(
        help="Which backend computes; numba if not given, or numpy where Numba cannot be used.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
):
    """Predict every token of a text: loss, perplexity and bits per byte."""
    from tinyllama.cli.models import check_weights
    from tinyllama.data import read_corpus
    names = [weights] if compare_weights is None else compare_weights.split(",")
    for name in names:
        check_weights(name, "--weights" if compare_weights is None else "--compare-weights")
    if compare_weights is not None and weights != "auto":
        raise ValueError(f"--weights: expected none beside --compare-weights, got {weights!r}")
    corpus = read_corpus(data, seed=SEED, stories_wanted=STORIES)
    settings = {"context": context, "backend": backend, "tokenizer": tokenizer}
    if compare_weights is None:
        _print_one(_evaluate(model, corpus, weights, **settings)[0], as_json)
        return
    rows = [_measure(model, corpus, name, **settings) for name in names]
    if as_json:
        print(json.dumps({"comparison": rows}, indent=2))
    else:
        _print_table(rows)


def _evaluate(path, corpus, weights, *, context, backend, tokenizer):
    """(the `TextEvaluation`, the model, its tokenizer, the seconds that it took)."""
    from tinyllama.cli.models import open_model
    from tinyllama.training.evaluation import evaluate_text
    llama, words = open_model(path, weights=weights, backend=backend, tokenizer=tokenizer)
    start = time.perf_counter()
    result = evaluate_text(llama, words, corpus, context)
    return result, llama, words, time.perf_counter() - start


def _measure(path, corpus, weights, **settings):
    """The row of the table for one kind of weights. Afterwards the model is gone."""
    from tinyllama.cli.models import weight_bytes
    result, llama, words, seconds = _evaluate(path, corpus, weights, **settings)
    return {"weights": weights, "weight_bytes": weight_bytes(llama), "loss": result.loss,
            "perplexity": result.perplexity, "bits_per_byte": result.bits_per_byte, "tokens": result.tokens,
            "tokens_per_second_reading": result.tokens / seconds,
            "tokens_per_second_writing": _writing_rate(llama, words, corpus)}


def _writing_rate(llama, tokenizer, corpus):
    """Tokens a second after the first, greedy, where a document goes on; None where the context leaves no room."""
    from tinyllama.generation.timing import Timing
    if llama.config.max_position_embeddings < 2:
        return None
    text = max(corpus.documents, key=len)[:8 * PROMPT]
    prompt = tokenizer.encode(text)[:min(PROMPT, llama.config.max_position_embeddings // 2)]
    count = min(WRITTEN, llama.config.max_position_embeddings - len(prompt))
    timing = Timing()
    for _ in timing.watch(llama.generate(prompt, count, temperature=0, end_tokens=())):
        pass
    return timing.rate or None


def _print_one(result, as_json):
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


def _print_table(rows):
    from rich import box
    from rich.console import Console
    from rich.table import Table
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("weights", "MB", "perplexity", "change", "bits/byte", "reads", "writes"):
        table.add_column(heading, justify="left" if heading == "weights" else "right")
    for row in rows:
        change, rate = row["perplexity"] / rows[0]["perplexity"] - 1, row["tokens_per_second_writing"]
        table.add_row(row["weights"], f"{row['weight_bytes'] / 1e6:,.1f}", f"{row['perplexity']:.3f}",
                      f"{change:+.2%}", f"{row['bits_per_byte']:.4f}", f"{row['tokens_per_second_reading']:,.0f}",
                      "too short" if rate is None else f"{rate:,.0f}")
    Console().print(table)
    print("MB: the weights. Change: of the perplexity, against the first row. Reads, writes: tokens a second.")
