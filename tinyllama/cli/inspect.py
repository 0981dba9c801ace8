"""`tinyllama inspect`: what a model is, and what it needs."""

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from tinyllama.cli.paths import model as model_path

LAYER = re.compile(r"^model\.layers\.\d+\.")
WIDTH = 100             # of a table of parameters: a narrower terminal breaks its lines, but no name is broken
MOST_SPECIAL = 8        # special tokens that are shown, of sometimes hundreds


def inspect(
    model: Annotated[Path, typer.Argument(
        help="A directory of Hugging Face or of `tinyllama train`, a GGUF file, one of llama2.c, or the name of an "
             "installed package that holds a GGUF file.", parser=model_path)],
    context: Annotated[int | None, typer.Option(
        help="Tokens of a row, for the memory; the context of the model if not given.")] = None,
    batch: Annotated[int, typer.Option(help="Rows, for the memory.")] = 1,
    show_all: Annotated[bool, typer.Option("--all", help="Show the parameters of every layer.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
):
    """Show the architecture, the parameters, the memory for training and writing, and the tokenizer of a model.

    Only headers are read, so this is quick however large the model is.
    """
    from tinyllama.formats.summary import summarize
    facts = summarize(model, context=context, batch_size=batch)
    if as_json:
        print(json.dumps(facts, ensure_ascii=False, indent=2))
        return
    _print_architecture(facts)
    _print_parameters(facts, show_all)
    _print_memory(facts["memory"])
    _print_tokenizer(facts["tokenizer"])


def _print_architecture(facts):
    config = facts["architecture"]
    rotation = f"rotation by {config['rope_theta']:g}" if config["positions"] == "rope" else config["positions"]
    if config["rope_scaling"]:
        rotation += f", scaled: {config['rope_scaling'].get('rope_type', config['rope_scaling'].get('type'))}"
    extras = [name for name in ("attention_bias", "mlp_bias", "qk_norm") if config[name]]
    shared = f", of which {config['num_unique_layers']} have weights of their own" \
        if config["num_unique_layers"] < config["num_hidden_layers"] else ""
    lines = {
        "model": f"{facts['path']}, {facts['format']}" + (", a run of tinyllama train" if facts["is_run"] else ""),
        "layers": f"{config['num_hidden_layers']}{shared}, of {config['hidden_size']} features",
        "attention": f"{config['num_attention_heads']} heads of {config['head_dim']}, "
                     f"{config['num_key_value_heads']} of keys and values"
                     + (f", a window of {config['sliding_window']:,}" if config["sliding_window"] else ""),
        "MLP": f"{config['mlp']} of {config['intermediate_size']} features",
        "norm": f"{config['norm']}, eps {config['rms_norm_eps']:g}",
        "positions": rotation,
        **({"also": ", ".join(extras)} if extras else {}),
        "vocabulary": f"{config['vocab_size']:,}, the head "
                      + ("is the embedding" if config["tie_word_embeddings"] else "has weights of its own"),
        "context": f"{config['max_position_embeddings']:,} tokens",
        "bos, eos": f"{config['bos_token_id']}, {config['eos_token_id']}",
    }
    for name, line in lines.items():
        print(f"{name:<13}{line}")


def _print_parameters(facts, show_all):
    rows = [{**row, "count": 1} for row in facts["parameters"]]
    table = _table("name", "count", "shape", "held as", "bytes")
    for row in rows if show_all else _folded(rows):
        shape = " × ".join(map(str, row["shape"]))
        _add_row(table, row["name"], f"{row['count']}", shape, row["kind"], f"{row['bytes']:,}")
    totals = facts["totals"]
    kinds = ", ".join(f"{count:,} in {kind}" for kind, count in totals["kinds"].items())
    _print_table(table)
    print(f"{totals['parameters']:,} parameters ({kinds}), {_size(totals['bytes'])} in the file")


def _folded(rows):
    """The rows of layers that are alike, as one row each with their count and all their bytes."""
    folded = {}
    for row in rows:
        name = LAYER.sub("model.layers.*.", row["name"])
        alike = (name, tuple(row["shape"]), row["kind"])
        same = folded.setdefault(alike, {**row, "name": name, "count": 0, "bytes": 0})
        same["count"] += 1
        same["bytes"] += row["bytes"]
    return list(folded.values())


def _print_memory(memory):
    where = f"{memory['batch_size']:,} × {memory['context']:,} tokens"
    training = memory["training"]
    print(f"\nmemory to train, {where}, float32, AdamW, workers: {training['workers']}")
    table = _table(*(name for name in training if name != "workers"))
    _add_row(table, *(_size(value) for name, value in training.items() if name != "workers"))
    _print_table(table)
    print(f"memory to write text, {where}")
    table = _table("weights held as", "weights", "keys and values", "total")
    for row in memory["decoding"]:
        _add_row(table, row["held_as"], *(_size(row[name]) for name in ("weights", "kv_cache", "total")))
    _print_table(table)


def _print_tokenizer(facts):
    if "missing" in facts:
        print(f"tokenizer    none: {facts['missing']}")
        return
    special = list(facts["special_tokens"].items())
    shown = ", ".join(f"{text} ({token})" for text, token in special[:MOST_SPECIAL])
    if len(special) > MOST_SPECIAL:
        shown += f", and {len(special) - MOST_SPECIAL:,} more"
    print(f"tokenizer    {facts['kind']}, {facts['vocab_size']:,} tokens, {facts['merges']:,} merges")
    print(f"special      {shown or 'none'}")
    print(f"bos, eos     {facts['bos_token_id']}, {facts['eos_token_id']}")
    if facts["example"]:
        print(f"example      {' '.join(map(repr, facts['example']['pieces']))}")
        print(f"             {' '.join(map(str, facts['example']['ids']))}")


def _table(*headings):
    from rich import box
    from rich.table import Table
    table = Table(box=box.SIMPLE_HEAD)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("name", "held as", "weights held as") else "right",
                         overflow="fold")
    return table


def _add_row(table, *cells):
    from rich.text import Text
    table.add_row(*map(Text, cells))        # as Text, since rich would take [brackets] in a str for its own marks


def _print_table(table):
    from rich.console import Console
    console = Console()
    console.width = max(console.width, WIDTH)
    console.print(table)


def _size(count):
    """Bytes as a person reads them."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
