"""The command line: `tinyllama ...`. Each command reads its arguments in a file here and does its work elsewhere.

The heavy imports stand inside the commands, so that `tinyllama --help` answers at once.
"""

import contextlib
import sys
import warnings

import typer

from tinyllama.cli.bench import bench
from tinyllama.cli.chat import chat
from tinyllama.cli.convert import convert
from tinyllama.cli.evaluate import evaluate
from tinyllama.cli.generate import generate
from tinyllama.cli.gradcheck import gradcheck
from tinyllama.cli.inspect import inspect
from tinyllama.cli.tokenizer import app as tokenizer_app
from tinyllama.cli.train import train

UsageError = typer.BadParameter.__base__       # which typer does not export

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="A LLaMA from scratch: train it, prove its gradients, let it write.")


@app.callback()
def root():
    """A LLaMA from scratch: train it, prove its gradients, let it write."""


for command in (train, generate, chat, evaluate, gradcheck, bench, convert, inspect):
    app.command()(command)
app.add_typer(tokenizer_app, name="tokenizer")


def main():
    """Run a command. A mistake of the user is one line on standard error and exit code 2, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):       # a terminal that cannot show a character shows "?" for it
            stream.reconfigure(errors="replace")
    warnings.formatwarning = lambda message, *_: f"tinyllama: {message}\n"
    warnings.filterwarnings("ignore", message=".*goes on with the last half")       # what `generate` was asked to do
    warnings.filterwarnings("ignore", message=".* encountered in ", category=RuntimeWarning)    # a run stops at a nan
    try:
        code = app(prog_name="tinyllama", standalone_mode=False)     # or typer would draw a box around a mistake
    except (ValueError, TypeError, OSError, MemoryError, OverflowError, UsageError) as error:
        code = 2
        if message := _message(error):          # typer has none where it shows the help instead
            print(f"tinyllama: {message}", file=sys.stderr)
    sys.exit(code)


def _message(error):
    """What an error says, without what only a program could use."""
    if isinstance(error, UsageError):
        message = " ".join(error.format_message().split())
        if hasattr(error.__cause__, "errors"):          # of pydantic, which knows what came
            message += f", got {error.__cause__.errors()[0]['input']!r}"
        return f"{message} (see {error.ctx.command_path} --help)" if message and error.ctx else message
    if isinstance(error, OSError) and error.strerror:       # the system's own: [Errno 2] No such ...: 'file'
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
