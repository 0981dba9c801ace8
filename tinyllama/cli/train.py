"""`tinyllama train`: from text to a trained model."""

from pathlib import Path
from typing import Annotated

import typer

from tinyllama.cli.paths import model as model_path
from tinyllama.cli.paths import path

WITH_RESUME = ("resume", "out")
OPTIONS = {"from_model": "from"}        # that have another name than their parameter
SET_BY_MODEL = ("vocab_size", "layers", "hidden_size", "intermediate_size", "heads", "key_value_heads",
                "initializer_range")


def train(
    data: Annotated[str | None, typer.Option(
        help='"stories", "shakespeare", or the path of a UTF-8 text file or a folder of them.  [default: stories]',
        rich_help_panel="Run")] = None,
    preset: Annotated[str | None, typer.Option(
        help='Settings that work together: "pocket" (under a minute), "stories" or "shakespeare". Options given beside '
             'it come first. If not given, the one that suits the data.', rich_help_panel="Run")] = None,
    out: Annotated[Path | None, typer.Option(
        help="Where to save it; runs/NAME-1, -2, ... if not given.", parser=path, rich_help_panel="Run")] = None,
    resume: Annotated[bool, typer.Option(
        "--resume", help="Go on with the run in --out where it stopped.", rich_help_panel="Run")] = False,
    from_model: Annotated[Path | None, typer.Option(
        "--from", help="Begin with this model: a directory, a GGUF file, one of llama2.c, a run, or an installed "
                       "package that holds a GGUF file. Its tokenizer is used; --tokenizer is for a model without one. "
                       "The learning rate is 1e-4, with LoRA 1e-3, if not given.",
        parser=model_path, rich_help_panel="Run")] = None,
    tokenizer: Annotated[Path | None, typer.Option(
        help="A trained tokenizer, such as `tinyllama tokenizer train` saves.", parser=path,
        rich_help_panel="Run")] = None,
    vocab_size: Annotated[int | None, typer.Option(
        help="Train a byte-level BPE tokenizer of so many tokens on the text; one token a character if not given.",
        rich_help_panel="Run")] = None,
    lora_rank: Annotated[int | None, typer.Option(
        help="Leave the weights of --from as they are, and train updates of this rank beside them, which are saved "
             "alone.", rich_help_panel="LoRA")] = None,
    lora_alpha: Annotated[float | None, typer.Option(
        help="How much the updates count, as a multiple of the rank; 16 if not given.",
        rich_help_panel="LoRA")] = None,
    lora_targets: Annotated[str | None, typer.Option(
        help='Which linear layers get an update: their names, with commas between, or "all-linear"; q_proj,v_proj if '
             "not given.", rich_help_panel="LoRA")] = None,
    layers: Annotated[int | None, typer.Option(
        help="Blocks, one after the other.", rich_help_panel="Model")] = None,
    hidden_size: Annotated[int | None, typer.Option(help="Features of a token.", rich_help_panel="Model")] = None,
    intermediate_size: Annotated[int | None, typer.Option(
        help="Features inside the MLP; 8/3 of hidden-size if not given.", rich_help_panel="Model")] = None,
    heads: Annotated[int | None, typer.Option(
        help="Heads of attention, a divisor of hidden-size.", rich_help_panel="Model")] = None,
    key_value_heads: Annotated[int | None, typer.Option(
        help="Heads of keys and values, which groups of heads share; as many as heads if not given.",
        rich_help_panel="Model")] = None,
    initializer_range: Annotated[float | None, typer.Option(
        help="The standard deviation of the first weights.", rich_help_panel="Model")] = None,
    context: Annotated[int | None, typer.Option(
        help="Tokens of a row: how far the model sees back.", rich_help_panel="Model")] = None,
    dropout: Annotated[float | None, typer.Option(
        help="The rate of dropout while training.", rich_help_panel="Model")] = None,
    steps: Annotated[int | None, typer.Option(help="Updates of the weights.", rich_help_panel="Training")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows of an update.", rich_help_panel="Training")] = None,
    micro_steps: Annotated[int | None, typer.Option(
        help="Compute each update in so many parts, to save memory; the gradient is the same.",
        rich_help_panel="Training")] = None,
    optimizer: Annotated[str | None, typer.Option(help='"adamw" or "sgd".', rich_help_panel="Training")] = None,
    learning_rate: Annotated[float | None, typer.Option(
        help="The peak, after the warm-up.", rich_help_panel="Training")] = None,
    schedule: Annotated[str | None, typer.Option(
        help='The learning rate after the warm-up: "constant", "linear" or "cosine".',
        rich_help_panel="Training")] = None,
    warmup_steps: Annotated[int | None, typer.Option(
        help="Steps on which the learning rate rises; at most 100 if not given.", rich_help_panel="Training")] = None,
    final_fraction: Annotated[float | None, typer.Option(
        help="The last learning rate as a part of the peak.", rich_help_panel="Training")] = None,
    momentum: Annotated[float | None, typer.Option(help="Of SGD.", rich_help_panel="Training")] = None,
    weight_decay: Annotated[float | None, typer.Option(
        help="Decoupled decay: shrinks the matrices beside the gradient.", rich_help_panel="Training")] = None,
    l2: Annotated[float | None, typer.Option(
        "--l2", help="L2 regularisation: the decay that goes through the gradient.",
        rich_help_panel="Training")] = None,
    label_smoothing: Annotated[float | None, typer.Option(
        help="How much of each target is spread over all tokens.", rich_help_panel="Training")] = None,
    max_grad_norm: Annotated[float | None, typer.Option(
        help="A longer gradient is scaled down to this length.", rich_help_panel="Training")] = None,
    evaluate_every: Annotated[int | None, typer.Option(
        help="Steps between looks at the validation loss, each with a checkpoint; 8 in a run if not given.",
        rich_help_panel="Training")] = None,
    seed: Annotated[int | None, typer.Option(
        help="Draws the weights, the batches, the dropout and the stories.", rich_help_panel="Training")] = None,
    backend: Annotated[str | None, typer.Option(
        help="Which backend computes; numba if not given, or numpy where Numba cannot be used.",
        rich_help_panel="Training")] = None,
    workers: Annotated[int | None, typer.Option(
        help="Threads that share a step; found out if not given.", rich_help_panel="Training")] = None,
):
    """Train a LLaMA on text: shows the loss and a sample, and saves the model, checkpoints and a plot of the loss.

    Ctrl-C saves and stops; --resume goes on.
    """
    given = {name: value for name, value in locals().items() if value is not None and value is not False}
    from tinyllama.training.run import resume_training, run_training
    if resume:
        _require_only(given, WITH_RESUME, "resume", "since the run keeps the settings that it began with")
        if out is None:
            raise ValueError("resume: expected --out with the directory of the run to go on with, got no --out")
        resume_training(out)
    else:
        run_training(_settings(given))


def _settings(given):
    """The settings of a new run: those of the preset, and over them what was given."""
    from tinyllama.training.settings import FINE_TUNING_RATE, LORA_RATE, PRESETS, RunSettings, preset_for
    given = dict(given)
    name = given.pop("preset", preset_for(given.get("data", "stories")))
    if name not in PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(map(repr, PRESETS))}, got {name!r}")
    chosen = PRESETS[name]
    if "tokenizer" in given:
        chosen = {key: value for key, value in chosen.items() if key != "vocab_size"}
    if "from_model" in given:
        _forbid(given, SET_BY_MODEL, "from", "since the model that it begins with has its own")
        chosen = {key: value for key, value in chosen.items() if key not in SET_BY_MODEL}
        chosen["learning_rate"] = LORA_RATE if "lora_rank" in given else FINE_TUNING_RATE
    return RunSettings(**chosen | given)


def _require_only(given, allowed, option, why):
    _forbid(given, [name for name in given if name not in allowed], option, why)


def _forbid(given, names, option, why):
    clashing = [f"--{OPTIONS.get(name, name).replace('_', '-')}" for name in names if name in given]
    if clashing:
        raise ValueError(f"{option}: expected no {', '.join(clashing)} beside it, {why}")
