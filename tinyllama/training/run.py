"""One training run from text to a saved model, with a progress bar, a sample and a plot of the loss."""

import json
import math
import re
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tinyllama.data import Batches, read_text, split, validation_windows
from tinyllama.formats import save
from tinyllama.generation import ContextLimitWarning
from tinyllama.generation.writing import write
from tinyllama.models import Llama, LlamaConfig
from tinyllama.tokenizers import CharacterTokenizer
from tinyllama.training.trainer import TrainingSettings, evaluate, train

VALIDATION_BATCHES = 20
EVALUATIONS = 8             # how often a run looks at its validation loss, the last step included,
STEPS_BETWEEN = 50          # but no more often than this: an evaluation takes as long as several steps
SAMPLE_TOKENS = 300
METRICS = "metrics.json"
FILES = ("config.json", "model.safetensors", "tokenizer.json", METRICS, "loss.png")


@dataclass(frozen=True)
class RunSettings:
    """What `tinyllama train` can be told; its help says what each means."""

    data: str = "shakespeare"
    out: Path | None = None
    steps: int = 2000
    batch_size: int = 12
    context: int = 64
    layers: int = 4
    hidden_size: int = 128
    intermediate_size: int | None = None
    heads: int = 4
    key_value_heads: int | None = None
    learning_rate: float = 1e-3
    dropout: float = 0.0
    seed: int = 0
    backend: str = "numpy"
    workers: int | None = None

    def model_config(self, vocab_size):
        """The model that these settings describe; its MLP is 8/3 as wide as itself, rounded up to a multiple of 8."""
        intermediate_size = self.intermediate_size
        if intermediate_size is None:
            intermediate_size = 8 * math.ceil(self.hidden_size / 3)
        return LlamaConfig(
            vocab_size=vocab_size, hidden_size=self.hidden_size, intermediate_size=intermediate_size,
            num_hidden_layers=self.layers, num_attention_heads=self.heads, num_key_value_heads=self.key_value_heads,
            max_position_embeddings=self.context, tie_word_embeddings=True, dropout=self.dropout)


def run_training(settings, console=None):
    """Train, show and save; returns the directory of the run.

    It holds config.json and model.safetensors (the model, for `tinyllama generate` and for transformers),
    tokenizer.json, metrics.json and loss.png. Interrupted with Ctrl-C, it saves what it has. Raises ValueError, before
    anything is computed, where the text is too short, a setting is out of range, or `out` already holds a model; and
    later where the loss is no longer a number.
    """
    console = console or Console()
    text = read_text(settings.data)
    tokenizer = CharacterTokenizer.train(text)
    train_ids, validation_ids = _split(tokenizer.encode_to_array(text), settings)
    windows = {"batch_size": settings.batch_size, "context": settings.context}
    batches = Batches(train_ids, **windows, seed=settings.seed)
    warmup_steps = min(TrainingSettings.warmup_steps, settings.steps // 10)     # a short run warms up in a tenth of it
    training = TrainingSettings(steps=settings.steps, learning_rate=settings.learning_rate, warmup_steps=warmup_steps,
                                seed=settings.seed)
    model = Llama(settings.model_config(tokenizer.vocab_size), backend=settings.backend, seed=settings.seed,
                  workers=settings.workers)
    out = _claim_directory(settings)

    def validate():
        return evaluate(model, validation_windows(validation_ids, **windows, batches=VALIDATION_BATCHES))

    try:
        _announce(console, settings, model, text, tokenizer)
        losses, validation, interrupted = _train(console, model, batches, training, validate)
        save(model, out)
    except BaseException:
        _release(out)
        raise
    tokenizer.save(out / "tokenizer.json")
    metrics = {"settings": asdict(settings) | {"out": str(out)}, "losses": losses, "validation": validation}
    (out / METRICS).write_text(json.dumps(metrics, indent=1, default=str, allow_nan=False), encoding="utf-8")
    from tinyllama.training.plots import save_loss_plot
    save_loss_plot(out / "loss.png", losses, validation, title=f"A LLaMA learns {Path(settings.data).name}")
    if interrupted:
        _say(console, f"Interrupted after {len(losses):,} of {settings.steps:,} steps; saved as it is.")
    _show_sample(console, model, tokenizer)
    _say(console, f"Saved {out} and {out / 'loss.png'}. To read more of it: tinyllama generate {out}")
    return out


def _split(ids, settings):
    """(ids to train on, ids to validate with). Raises ValueError where the smaller part is too short for a window."""
    train_ids, validation_ids = split(ids)
    if len(validation_ids) < settings.context + 1:
        raise ValueError(f"{settings.data}: expected at least {10 * (settings.context + 1):,} characters, so that the "
                         f"tenth of them that is kept for validation holds a window of {settings.context} and one "
                         f"more, got {len(ids):,}; use a longer text or a smaller context")
    return train_ids, validation_ids


def _train(console, model, batches, training, validate):
    """Run the loop under a progress bar; returns (losses, [(step, validation loss)], whether Ctrl-C ended it)."""
    losses, validation, interrupted = [], [], False
    tokens = batches.batch_size * batches.context
    evaluations = max(min(EVALUATIONS, training.steps // STEPS_BETWEEN), 1)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=training.steps)
        mean, seconds, start = None, 0.0, time.perf_counter()
        try:
            for report in train(model, batches.batch, training):
                losses.append(float(report.loss))
                if not math.isfinite(losses[-1]):
                    raise ValueError(f"loss: expected a number, got {losses[-1]} in step {report.step + 1:,}; try a "
                                     f"learning rate below {training.learning_rate:g}")
                mean = losses[-1] if mean is None else 0.98 * mean + 0.02 * losses[-1]
                seconds += time.perf_counter() - start          # of training alone
                done = report.step + 1
                is_due = done * evaluations // training.steps > report.step * evaluations // training.steps
                if is_due:
                    validation.append((done, validate()))
                shown = f"  validation {validation[-1][1]:.3f}" if validation else ""
                description = f"loss {mean:.3f}{shown}  {done * tokens / seconds:,.0f} tokens/s"
                progress.update(task, advance=1, description=description)
                if is_due and not (console.is_terminal or console.is_jupyter):      # no moving bar in a file or a pipe
                    _say(console, f"{done:,}/{training.steps:,}  {description}")
                start = time.perf_counter()
        except KeyboardInterrupt:
            interrupted = True
    return losses, validation, interrupted


def _announce(console, settings, model, text, tokenizer):
    parameters = sum(weight.size for weight in model.parameters.values())
    _say(console, f"{settings.data}: {len(text):,} characters, {tokenizer.vocab_size} distinct.")
    _say(console, f"A LLaMA of {parameters:,} parameters: layers {settings.layers}, features {settings.hidden_size}.")
    _say(console, f"Steps: {settings.steps:,}, each on {settings.batch_size} rows of {settings.context} characters.")


def _show_sample(console, model, tokenizer):
    console.rule("a sample")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ContextLimitWarning)        # a sample may well be longer than the context
        text = "".join(write(model, tokenizer, max_new_tokens=SAMPLE_TOKENS, temperature=0.8))
    _say(console, text.strip())
    console.rule()


def _say(console, text):
    """Print a text as it is: rich would take [brackets] in it for its own marks, and break lines without need."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _claim_directory(settings):
    """Make the directory of the run, and metrics.json in it, which tells every other run that it is taken.

    It is the one asked for, if nothing in it would be lost, else the first free runs/NAME-N. Raises ValueError where
    the one asked for is taken or is a file, OSError where it cannot be written: now, and not after hours of training.
    """
    if settings.out is not None:
        out = settings.out
        if out.exists() and not out.is_dir():
            raise ValueError(f"out: expected a directory, got the file {out}")
        held = [name for name in FILES if (out / name).exists()]
        if held:
            raise ValueError(f"out: expected a directory without a model, but {out} holds {', '.join(held)}; "
                             f"choose another, or move that one away")
        out.mkdir(parents=True, exist_ok=True)
    else:
        name = re.sub(r"[^\w-]+", "-", Path(settings.data).stem).strip("-") or "run"
        number = 1
        while (out := _made(Path("runs") / f"{name}-{number}")) is None:
            number += 1
    (out / METRICS).open("x").close()
    return out


def _made(directory):
    """The directory, if it is this call that made it."""
    try:
        directory.mkdir(parents=True)
    except FileExistsError:
        return None
    return directory


def _release(out):
    """Leave nothing behind of a run that failed before it had something to save."""
    if not (out / "model.safetensors").exists():
        (out / METRICS).unlink(missing_ok=True)
        if not any(out.iterdir()):
            out.rmdir()
