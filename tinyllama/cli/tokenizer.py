"""`tinyllama tokenizer`: train a tokenizer, see what it makes of a text, and why."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tinyllama.cli.paths import path

app = typer.Typer(no_args_is_help=True, help="Train a tokenizer, encode and decode with it, look at its merges.")

File = Annotated[Path, typer.Argument(
    metavar="FILE", help="A tokenizer.json, or the directory of a model with one.", parser=path)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command()
def train(
    out: Annotated[Path, typer.Option(
        help="The file to write, or a directory that gets a tokenizer.json.", parser=path)],
    data: Annotated[str, typer.Option(help='"shakespeare", "stories", or the path of UTF-8 text.')] = "shakespeare",
    vocab_size: Annotated[int, typer.Option(help="How many tokens: 256 bytes, 2 special ones, and the merges.")] = 4096,
    as_json: Json = False,
):
    """Learn the merges of a text and save the tokenizer."""
    from tinyllama.data import read_corpus
    from tinyllama.tokenizers import train_tokenizer
    from tinyllama.tokenizers.files import tokenizer_file
    file = tokenizer_file(out)
    if file.exists():
        raise ValueError(f"out: expected a path without a tokenizer, but {file} exists")
    documents = read_corpus(data).documents
    tokenizer = train_tokenizer(documents, vocab_size)
    tokenizer.save(out)
    facts = {"file": str(file), "vocab_size": tokenizer.vocab_size, "merges": len(tokenizer.merges),
             "bytes_per_token": _bytes_per_token(tokenizer, documents)}
    if as_json:
        _print_json(facts)
    else:
        print(f"{facts['merges']:,} merges learned from {sum(map(len, documents)):,} characters: "
              f"{facts['bytes_per_token']:.2f} bytes a token where a byte was one before.")
        print(f"Saved {file}. Look at it with:  tinyllama tokenizer inspect {file}")


@app.command()
def encode(
    file: File,
    text: Annotated[str | None, typer.Argument(help="The text; standard input if not given.")] = None,
    pieces: Annotated[bool, typer.Option("--pieces", help="Show what each token stands for, one a line.")] = False,
    as_json: Json = False,
):
    """Print the tokens of a text."""
    from tinyllama.tokenizers import load_tokenizer
    tokenizer = load_tokenizer(file)
    ids = tokenizer.encode(_standard_input() if text is None else text)
    shown = [_shown(tokenizer.token_bytes(token)) for token in ids] if pieces else []
    if as_json:
        _print_json({"ids": ids} | ({"pieces": shown} if pieces else {}))
    elif pieces:
        for token, piece in zip(ids, shown, strict=True):
            print(f"{token:8}  {piece}")
    else:
        print(*ids)


@app.command()
def decode(
    file: File,
    ids: Annotated[list[int] | None, typer.Argument(help="The tokens; standard input if none is given.")] = None,
    as_json: Json = False,
):
    """Print the text of some tokens."""
    from tinyllama.tokenizers import load_tokenizer
    tokenizer = load_tokenizer(file)
    if ids is None:
        ids = [_whole_number(word) for word in _standard_input().split()]
    text = tokenizer.decode(ids)
    if as_json:
        _print_json({"text": text})
    else:
        print(text)


@app.command()
def inspect(
    file: File,
    limit: Annotated[int, typer.Option(help="How many merges and how many of the longest pieces to show.")] = 20,
    data: Annotated[str | None, typer.Option(help="A text, as for train, to count the bytes of a token on.")] = None,
    as_json: Json = False,
):
    """Show the merges in the order in which they were learned, how often each pair was seen, and the longest pieces."""
    from tinyllama.data import read_corpus
    from tinyllama.tokenizers import load_tokenizer
    if limit < 0:
        raise ValueError(f"limit: expected at least 0, got {limit}")
    tokenizer = load_tokenizer(file)
    pieces = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    facts = {
        "vocab_size": tokenizer.vocab_size,
        "special_tokens": tokenizer.special_tokens,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "merges": len(tokenizer.merges),
        "longest_pieces": [_shown(piece) for piece in sorted(filter(None, pieces), key=len, reverse=True)[:limit]],
        "bytes_per_token": None if data is None else _bytes_per_token(tokenizer, read_corpus(data).documents),
    }
    first = [{"rank": merge.rank, "left": _shown(merge.left), "right": _shown(merge.right),
              "merged": _shown(merge.merged), "count": merge.count} for merge in tokenizer.merges[:limit]]
    if as_json:
        _print_json(facts | {"first_merges": first})
    else:
        _print_facts(facts, first)


def _print_facts(facts, merges):
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
    if merges:
        table = Table(title="the merges, first learned first", box=box.SIMPLE_HEAD)
        for heading in ("rank", "count", "left", "right", "merged"):
            table.add_column(heading, justify="right" if heading in ("rank", "count") else "left")
        for merge in merges:
            count = "unknown" if merge["count"] is None else f"{merge['count']:,}"
            # as Text, since rich would take [brackets] in a str for its own marks
            table.add_row(str(merge["rank"]), count, *(Text(merge[key]) for key in ("left", "right", "merged")))
        Console().print(table)
        if merges[0]["count"] is None:
            print("The counts are unknown: only a tokenizer that tinyllama trained has them in its file.\n")
    special = ", ".join(f"{text} ({token})" for text, token in facts["special_tokens"].items())
    print(f"vocabulary       {facts['vocab_size']:,} tokens, {facts['merges']:,} of them merges")
    print(f"special tokens   {special or 'none'}")
    print(f"longest pieces   {'  '.join(facts['longest_pieces'])}")
    if facts["bytes_per_token"] is not None:
        print(f"bytes a token    {facts['bytes_per_token']:.2f}")


def _bytes_per_token(tokenizer, documents):
    size = sum(len(document.encode("utf-8")) for document in documents)
    return size / sum(len(tokenizer.encode_to_array(document)) for document in documents)


def _shown(piece):
    """A piece as Python writes it: ' the' where it is text, b'\\xe4\\xbd' where it is part of a character."""
    try:
        return repr(piece.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(piece)


def _whole_number(word):
    try:
        return int(word)
    except ValueError:
        raise ValueError(f"ids: expected whole numbers with spaces between them, got {word!r}") from None


def _standard_input():
    data = sys.stdin.buffer.read()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"standard input: expected text in UTF-8, got byte 0x{data[error.start]:02x} "
                         f"at offset {error.start}") from error


def _print_json(value):
    print(json.dumps(value, ensure_ascii=False, indent=2))
