"""`tinyllama gradcheck`: the table of every gradient and its error."""

import json
import math
from typing import Annotated

import typer


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
