"""Paths as they are typed."""

from pathlib import Path

import typer


def path(text):
    """The path that a text names. An empty one, as an unset variable gives, would mean the current directory."""
    if not text:
        raise typer.BadParameter("expected a path, got an empty text")
    return Path(text)
