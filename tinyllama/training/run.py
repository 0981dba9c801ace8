"""One training run from text to a saved model, with a progress bar, a sample and a plot of the loss."""

import json
import math
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tinyllama.data import Batches, read_text, split, validation_windows
from tinyllama.formats import save
from tinyllama.models import Llama, LlamaConfig
from tinyllama.models.writing import write
from tinyllama.tokenizers import CharacterTokenizer
from tinyllama.training.trainer import TrainingSettings, evaluate, train

VALIDATION_BATCHES = 20
EVALUATIONS = 8             # how often a run looks at its validation loss, the last time included
SAMPLE_TOKENS = 300


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
        intermediate_size = self.intermediate_size or 8 * math.ceil(self.hidden_size / 3)
        return LlamaConfig(
            vocab_size=vocab_size, hidden_size=self.hidden_size, intermediate_size=intermediate_size,
            num_hidden_layers=self.layers, num_attention_heads=self.heads, num_key_value_heads=self.key_value_heads,
            max_position_embeddings=self.context, tie_word_embeddings=True, dropout=self.dropout)


def run_training(settings, console=None):
    """Train, show and save; returns the directory of the run.

    It holds config.json and model.safetensors (the model, for `tinyllama generate` and for transformers),
    tokenizer.json, metrics.json and loss.png. Interrupted with Ctrl-C, it saves what it has. Raises ValueError, before
    anything is computed, where the text is too short, a setting is out of range, or `out` already holds a model.
    """
    console = console or Console()
    out = _free_directory(settings)
    text = read_text(settings.data)
    tokenizer = CharacterTokenizer.train(text)
    train_ids, validation_ids = split(tokenizer.encode_to_array(text))
    windows = {"batch_size": settings.batch_size, "context": settings.context}
    batches = Batches(train_ids, **windows, seed=settings.seed)
    validation_windows(validation_ids, **windows, batches=1)        # raises now, not after the first hour
    training = TrainingSettings(steps=settings.steps, learning_rate=settings.learning_rate, seed=settings.seed)
    model = Llama(settings.model_config(tokenizer.vocab_size), backend=settings.backend, seed=settings.seed,
                  workers=settings.workers)
    out.mkdir(parents=True, exist_ok=True)
    _announce(console, settings, model, text, tokenizer)

    def validate():
        return evaluate(model, validation_windows(validation_ids, **windows, batches=VALIDATION_BATCHES))

    losses, validation, interrupted = _train(console, model, batches, training, validate)
    save(model, out)
    tokenizer.save(out / "tokenizer.json")
    metrics = {"settings": asdict(settings) | {"out": str(out)}, "losses": losses, "validation": validation}
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1, default=str), encoding="utf-8")
    _show_sample(console, model, tokenizer)
    from tinyllama.training.plots import save_loss_plot
    save_loss_plot(out / "loss.png", losses, validation, title=f"A LLaMA learns {Path(settings.data).name}")
    if interrupted:
        console.print(f"Interrupted after {len(losses)} of {settings.steps} steps; saved as it is.")
    console.print(f"Saved {out} and {out / 'loss.png'}. To read more of it: tinyllama generate {out}", soft_wrap=True)
    return out


def _train(console, model, batches, training, validate):
    """Run the loop under a progress bar; returns (losses, [(step, validation loss)], whether Ctrl-C ended it)."""
    losses, validation, interrupted = [], [], False
    tokens = batches.batch_size * batches.context
    every = max(training.steps // EVALUATIONS, 1)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=training.steps)
        mean, start = None, time.perf_counter()
        try:
            for report in train(model, batches.batch, training):
                losses.append(float(report.loss))
                mean = losses[-1] if mean is None else 0.98 * mean + 0.02 * losses[-1]
                speed = (report.step + 1) * tokens / (time.perf_counter() - start)
                if (report.step + 1) % every == 0 or report.step + 1 == training.steps:
                    validation.append((report.step + 1, validate()))
                shown = f"  validation {validation[-1][1]:.3f}" if validation else ""
                progress.update(task, advance=1, description=f"loss {mean:.3f}{shown}  {speed:,.0f} tokens/s")
        except KeyboardInterrupt:
            interrupted = True
    return losses, validation, interrupted


def _announce(console, settings, model, text, tokenizer):
    parameters = sum(weight.size for weight in model.parameters.values())
    console.print(f"{settings.data}: {len(text):,} characters, {tokenizer.vocab_size} distinct. "
                  f"A LLaMA of {parameters:,} parameters, {settings.layers} layers of {settings.hidden_size}, "
                  f"learns from {settings.steps:,} batches of {settings.batch_size} × {settings.context}.")


def _show_sample(console, model, tokenizer):
    console.rule("a sample")
    text = "".join(write(model, tokenizer, max_new_tokens=SAMPLE_TOKENS, temperature=0.8))
    console.print(text.strip(), markup=False, highlight=False)
    console.rule()


def _free_directory(settings):
    """The directory of the run: the one asked for if it holds no model, else the first free runs/NAME-N."""
    if settings.out is not None:
        if (settings.out / "model.safetensors").exists():
            raise ValueError(f"out: expected a directory without a model, but {settings.out} holds one; "
                             f"choose another, or move that one away")
        return settings.out
    name = re.sub(r"[^\w-]+", "-", Path(settings.data).stem).strip("-") or "run"
    number = 1
    while (Path("runs") / f"{name}-{number}").exists():
        number += 1
    return Path("runs") / f"{name}-{number}"
