"""The command line in the process of a test."""

import io
import sys
import warnings
from typing import NamedTuple

import pytest

from tinyllama import cli


class Result(NamedTuple):
    code: int
    out: str
    err: str


def command_line(monkeypatch, capsys, directory):
    """A function that runs `tinyllama ARGUMENTS` in a directory, with some bytes on standard input: a `Result`."""
    def run(*arguments, standard_input=b""):
        monkeypatch.setattr(sys, "argv", ["tinyllama", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(standard_input), encoding="ascii"))
        capsys.readouterr()
        with warnings.catch_warnings(), pytest.raises(SystemExit) as exit:
            warnings.resetwarnings()        # as a process begins, where a warning is no error
            cli.main()
        return Result(exit.value.code or 0, *capsys.readouterr())

    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)      # `main` sets it; this sets it back
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(directory)
    return run


def assert_is_a_mistake(result, message):
    """Exit code 2, and one line on standard error that holds the message and is no traceback."""
    assert result.code == 2, result
    assert result.err.startswith("tinyllama: "), result
    assert result.err.count("\n") == 1 and result.err.endswith("\n"), result
    assert message in result.err
    assert "Traceback" not in result.err
    assert "Errno" not in result.err
