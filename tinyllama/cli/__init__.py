"""The command line: `tinyllama ...`. Each command reads its arguments in a file here and does its work elsewhere.

The heavy imports stand inside the commands, so that `tinyllama --help` answers at once.
"""

import contextlib
import sys
import warnings

import typer

from tinyllama.cli.evaluate import evaluate
from tinyllama.cli.generate import generate
from tinyllama.cli.gradcheck import gradcheck
from tinyllama.cli.tokenizer import app as tokenizer_app
from tinyllama.cli.train import train

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="A LLaMA from scratch: train it, prove its gradients, let it write.")


@app.callback()
def root():
    """A LLaMA from scratch: train it, prove its gradients, let it write."""


for command in (train, generate, evaluate, gradcheck):
    app.command()(command)
app.add_typer(tokenizer_app, name="tokenizer")


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
