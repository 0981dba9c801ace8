"""One training run, from text to a saved model: begun or resumed, with a progress bar, a sample and plots."""

import math
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tinyllama.backends.compilation import compile_with_bar
from tinyllama.backends.memory import keep_freed_memory
from tinyllama.generation import ContextLimitWarning
from tinyllama.generation.writing import write
from tinyllama.models.lora import trainable_size
from tinyllama.nn.lora import FACTORS
from tinyllama.training import run_directory
from tinyllama.training.checkpoints import (
    latest_checkpoint,
    load_checkpoint,
    remove_others,
    save_model,
    write_checkpoint,
)
from tinyllama.training.forecast import forecast
from tinyllama.training.interruption import ctrl_c_asks
from tinyllama.training.metrics import MetricsLog, read_metrics
from tinyllama.training.preparation import prepare
from tinyllama.training.trainer import evaluate, make_optimizer, train

EVALUATIONS = 8             # how often a run looks at its validation loss unless told otherwise, with the last step,
STEPS_BETWEEN = 50          # but no more often than this: an evaluation takes as long as several steps
SAMPLE_TOKENS = 300


def run_training(settings, console=None):
    """Train, show and save; returns the directory of the run.

    It holds the best model so far with its tokenizer (config.json, model.safetensors, tokenizer.json: what `load`,
    `tinyllama generate` and transformers read; with LoRA adapter_config.json and adapter_model.safetensors, which the
    first two and PEFT read, as long as the model that it began with is where it was), checkpoints/ with the last state,
    metrics.jsonl, run.json and data/, from which `resume_training` goes on, and at the end loss.png and loss-dark.png.
    Ctrl-C saves and stops.

    Raises ValueError, before anything is made, where the text is too short, a setting is out of range, or `out` already
    holds a run; and later, leaving the last checkpoint, where the loss is no longer a number. Raises OSError where the
    directory cannot be written.
    """
    keep_freed_memory()
    preparation = prepare(settings)
    out = run_directory.claim(preparation)
    try:
        with run_directory.readable_errors(out):
            run_directory.fill(out, preparation)
            # From here on as a resumed run: what was prepared lies on the disk, and its tokens need no memory.
            return _Run(out, run_directory.reopen(out), console).finish()
    except BaseException:
        run_directory.release(out)
        raise


def resume_training(out, console=None):
    """Go on with the run in the directory `out`, as if it had never stopped; returns the directory.

    The same backend and number of workers give the same weights, bit for bit. Raises FileNotFoundError where there is
    no run, and ValueError where its files are damaged, do not belong together, or are of another version.
    """
    keep_freed_memory()
    run = _Run(Path(out), run_directory.reopen(out), console)
    with run_directory.readable_errors(Path(out)):
        return run.finish()


class _Run:
    """A run under way: what it works with, and how far it is."""

    def __init__(self, out, preparation, console):
        self.out, self.preparation, self.settings = out, preparation, preparation.settings
        self.console = console or Console()
        self.training = self.settings.training()
        self.step = 0                           # updates made
        self.base = None                        # with LoRA the "path" of the model that it began with, and its "crc32"
        self.best = self.validation = None      # (step, loss) of the best validation so far; the loss of the last
        checkpoint = latest_checkpoint(out)
        if checkpoint is None:
            self.model = preparation.model
            self.optimizer = make_optimizer(self.model, self.training)
        else:
            run_directory.require_the_same_tokenizer(out, checkpoint)
            self.model, self.optimizer = load_checkpoint(
                checkpoint, lambda model: make_optimizer(model, self.training), config=preparation.config,
                backend=self.settings.backend, workers=preparation.workers,
                adapted=preparation.model if self.settings.lora else None)
            self.step = checkpoint.step
            self.base = checkpoint.facts.get("base")
            self.best = checkpoint.facts["best"] and tuple(checkpoint.facts["best"])
        if self.settings.lora is not None:
            self._require_the_same_base()

    def finish(self):
        """Make the steps that are left, and what stands at the end."""
        compile_with_bar(self.model.backend, self.model.dtype, self.console)
        self._announce()
        last = latest_checkpoint(self.out)
        if last is None:
            self._write_checkpoint()
        else:
            remove_others(last.directory)       # a crash may have come between a checkpoint and this
        if self.best and self.best[0] == self.step:
            self._save()                        # the same
        with ctrl_c_asks() as stop:
            self._train(stop)
        if self.best is None:
            self._save()
        self._draw()
        entropy = self.preparation.corpus["entropy"]
        if self.best and entropy is not None:
            _say(self.console, f"Best validation loss {self.best[1]:.3f}, which is {self.best[1] - entropy:.3f} nats "
                               "per token above the entropy.")
        if self.step < self.training.steps:
            _say(self.console, f"Interrupted after {self.step:,} of {self.training.steps:,} steps, all of them saved. "
                               f"To go on: {run_directory.resume_command(self.out)}")
        self._show_sample()
        _say(self.console, f"Saved {self.out} and {self.out / 'loss.png'}. To read more of it: "
                           f"tinyllama generate {run_directory.as_typed(self.out)}")
        return self.out

    def _train(self, stop):
        """Run the loop under a progress bar, until it is done or Ctrl-C was pressed."""
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        updates = train(self.model, self.preparation.batches.batch, self.training, self.optimizer, self.step)
        tokens = self.settings.batch_size * self.settings.context
        with MetricsLog(self.out, self.step) as metrics, Progress(*columns, console=self.console) as progress:
            task = progress.add_task("", total=self.training.steps, completed=self.step)
            mean, seconds, start, first, is_due = None, 0.0, time.perf_counter(), self.step, True
            for report in updates:
                loss, norm = float(report.loss), float(report.norm)
                self._require_numbers(report.step + 1, loss=loss, norm=norm)
                self.step = report.step + 1
                metrics.write(self.step, loss=loss, gradient_norm=norm, learning_rate=report.learning_rate)
                mean = loss if mean is None else 0.98 * mean + 0.02 * loss
                seconds += time.perf_counter() - start          # of training alone
                is_due = self._evaluation_is_due()
                if is_due:
                    self._evaluate(metrics)
                shown = f"  validation {self.validation:.3f}" if self.validation is not None else ""
                description = f"loss {mean:.3f}{shown}  {(self.step - first) * tokens / seconds:,.0f} tokens/s"
                progress.update(task, advance=1, description=description)
                if is_due and not (self.console.is_terminal or self.console.is_jupyter):    # no moving bar in a file
                    _say(self.console, f"{self.step:,}/{self.training.steps:,}  {description}")
                if stop.made:
                    break
                start = time.perf_counter()
            if stop.made and not is_due:
                metrics.flush()
                self._write_checkpoint()

    def _evaluation_is_due(self):
        every = self.settings.evaluate_every
        if self.step == self.training.steps:
            return True
        if every is not None:
            return self.step % every == 0
        count = self._evaluations()
        return self.step * count // self.training.steps > (self.step - 1) * count // self.training.steps

    def _evaluations(self):
        """How many evaluations a whole run has."""
        if self.settings.evaluate_every is not None:
            return math.ceil(self.training.steps / self.settings.evaluate_every)
        return max(min(EVALUATIONS, self.training.steps // STEPS_BETWEEN), 1)

    def _evaluate(self, metrics):
        """Look at the validation loss and save, first what the run can go on from, then the model if it is the best."""
        loss = evaluate(self.model, self.preparation.validation()).loss
        self._require_numbers(self.step, validation_loss=loss)
        self.validation = loss
        metrics.write(self.step, validation_loss=loss)
        metrics.flush()
        is_best = self.best is None or loss < self.best[1]
        if is_best:
            self.best = (self.step, loss)
        self._write_checkpoint()
        if is_best:
            self._save()

    def _save(self):
        save_model(self.model, self.out, self.base)

    def _write_checkpoint(self):
        weights = self.model.backend.to_numpy(self.model.parameters.trainable)
        self._require_numbers(self.step, largest_weight=float(np.abs(weights).max()))
        facts = {"step": self.step, "best": self.best, "tokenizer": run_directory.tokenizer_digest(self.out)}
        if self.base is not None:
            facts["base"] = self.base
        write_checkpoint(self.out, self.model, self.optimizer, facts)

    def _require_the_same_base(self):
        """Raise ValueError where the weights beside the updates are not those that the run began with."""
        found = zlib.crc32(self.model.backend.to_numpy(self.model.parameters.frozen))
        if self.base is None:
            self.base = {"path": str(self.settings.from_model.resolve()), "crc32": found}
        if found != self.base["crc32"]:
            raise ValueError(f"{self.settings.from_model}: expected the model that the run began with, whose weights "
                             f"have the CRC-32 {self.base['crc32']:08x}, got one with {found:08x}")

    def _require_numbers(self, step, **figures):
        """Raise ValueError, naming the step, unless these are numbers: the weights are spoiled otherwise."""
        for name, figure in figures.items():
            if not math.isfinite(figure):
                last = latest_checkpoint(self.out)
                kept = f". The state after step {last.step:,} is kept in {last.directory}" if last else ""
                raise ValueError(f"{name}: expected a number, got {figure} in step {step:,}; try a learning rate below "
                                 f"{self.training.learning_rate:g}{kept}")

    # ---- what is shown

    def _announce(self):
        preparation, settings, config = self.preparation, self.settings, self.preparation.config
        corpus, weights = preparation.corpus, self.model.parameters
        parameters = sum(weights[name].size for name in weights if not name.endswith(FACTORS))
        documents = f"{corpus['documents']:,} documents, " if corpus["documents"] > 1 else ""
        _say(self.console, f"{settings.data}: {documents}{corpus['characters']:,} characters, "
                           f"{config.vocab_size:,} kinds of tokens.")
        if corpus["entropy"] is not None:
            _say(self.console, f"The entropy of its source: {corpus['entropy']:.3f} nats per token, which no model can "
                               "pass.")
        _say(self.console, f"A LLaMA of {parameters:,} parameters: layers {config.num_hidden_layers}, features "
                           f"{config.hidden_size}.")
        if settings.lora is not None:
            trained = trainable_size(config, settings.lora)
            _say(self.console, f"They stay as they are; LoRA of rank {settings.lora.rank} trains {trained:,} numbers "
                               "beside them.")
        left = settings.steps - self.step
        done = f", from step {self.step + 1:,} on" if left else ", all of them made"
        _say(self.console, f"Steps: {settings.steps:,}, each on {settings.batch_size} rows of {settings.context} "
                           f"tokens{done if self.step else ''}.")
        if left:
            evaluations = math.ceil(self._evaluations() * left / settings.steps)
            cost = forecast(self.model, preparation.batches, self.training, steps=left, evaluations=evaluations,
                            validation=preparation.validation())
            _say(self.console, f"Expected on this machine: {_duration(cost.seconds)}, {cost.bytes / 2**20:,.0f} MB.")

    def _draw(self):
        from tinyllama.training.plots import DARK, LIGHT, save_loss_plot
        losses, validation = read_metrics(self.out)
        for name, colors in (("loss.png", LIGHT), ("loss-dark.png", DARK)):
            save_loss_plot(self.out / name, losses, validation, floor=self.preparation.corpus["entropy"], colors=colors,
                           title=f"A LLaMA learns {Path(self.settings.data).name}")

    def _show_sample(self):
        self.console.rule("a sample")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ContextLimitWarning)        # a sample may well be longer than the context
            pieces = write(self.model, self.preparation.tokenizer, max_new_tokens=SAMPLE_TOKENS, temperature=0.8)
            text = "".join(pieces)
        _say(self.console, text.strip())
        self.console.rule()


def _duration(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _say(console, text):
    """Print a text as it is: rich takes [brackets] for its own marks and :o: for a picture, and breaks lines."""
    console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)
