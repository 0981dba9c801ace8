"""Checkpoints: all that a run needs to go on where it was, a directory for each.

    checkpoints/step-000500/config.json, model.safetensors      the model, for `load` and for transformers; or with LoRA
                            adapter_config.json, adapter_model.safetensors      its updates alone, for them and for PEFT
                            tokenizer.json                      that of the run
                            optimizer.safetensors               the optimizer's memory, as long as the weights
                            training.json                       the step, and what else is known there

A checkpoint is written under another name and renamed once it is complete and on the disk; only then are the older ones
removed, and none is ever written a second time. Whenever the process is killed, the newest directory with a proper name
is whole.
"""

import contextlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tinyllama.formats import load, save
from tinyllama.formats.peft import read_updates, save_adapter
from tinyllama.tokenizers.files import TOKENIZER_FILE

FOLDER = "checkpoints"
VERSION = 1
_NAME = re.compile(r"step-(\d+)(\.new)?")


class Checkpoint(NamedTuple):
    """Where a checkpoint is, and what its training.json says."""

    directory: Path
    facts: dict

    @property
    def step(self):
        """How many updates had been made."""
        return self.facts["step"]


def write_checkpoint(run, model, optimizer, facts):
    """Write the checkpoint `facts["step"]` of the run in the directory `run`, and remove those before it.

    facts: what JSON can hold; with LoRA the "path" of its "base" is among them. Raises OSError where it cannot be
    written, or is there already, and then leaves the last checkpoint as it was.
    """
    folder = Path(run) / FOLDER
    final = folder / f"step-{facts['step']:06d}"
    new = final.with_name(f"{final.name}.new")
    try:
        shutil.rmtree(new, ignore_errors=True)      # of a process that was killed here before
        new.mkdir(parents=True)
        save_model(model, new, facts.get("base"))
        try:
            save_file(optimizer.state(), new / "optimizer.safetensors")
        except SafetensorError as error:
            raise OSError(f"{new}: the optimizer could not be written ({error})") from error
        shutil.copyfile(Path(run) / TOKENIZER_FILE, new / TOKENIZER_FILE)
        (new / "training.json").write_text(json.dumps({"version": VERSION, **facts}, indent=1), encoding="utf-8")
        for name in ("optimizer.safetensors", TOKENIZER_FILE, "training.json"):
            flush(new / name)
        flush(new)
        os.rename(new, final)
        flush(folder)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        raise
    remove_others(final)


def save_model(model, directory, base=None):
    """Write a model; of one with LoRA its updates, and the "path" of their `base`."""
    if model.lora is None:
        save(model, directory)
    else:
        save_adapter(model, directory, base=base and base["path"])


def remove_others(directory):
    """Remove the checkpoints beside this one: older ones, and what a killed process has not completed."""
    for other in directory.parent.iterdir():
        if other != directory and _NAME.fullmatch(other.name):      # and nothing that others put here
            shutil.rmtree(other, ignore_errors=True)


def latest_checkpoint(run):
    """The newest complete `Checkpoint` of a run; None where there is none.

    Raises ValueError where its training.json is damaged or written by another version.
    """
    folder = Path(run) / FOLDER
    steps = {int(match[1]): path for path in (folder.iterdir() if folder.is_dir() else ())
             if (match := _NAME.fullmatch(path.name)) and not match[2]}
    if not steps:
        return None
    directory = steps[max(steps)]
    facts = read_versioned(directory / "training.json", VERSION)
    return Checkpoint(directory, facts)


def load_checkpoint(checkpoint, make_optimizer, *, config, backend, workers, adapted=None):
    """(model, optimizer) as they were. make_optimizer(model) -> the optimizer of the run.

    adapted: of a run with LoRA the model as it began, which gets the updates of the checkpoint. Raises ValueError where
    the model is not of this `config`, or where a file is damaged.
    """
    if adapted is None:
        model = load(checkpoint.directory, backend=backend, workers=workers)
    else:
        model = adapted
        read_updates(model, checkpoint.directory)
    if model.config != config:
        ours, theirs = config.to_dict(), model.config.to_dict()
        name = next(name for name in sorted(ours | theirs) if ours.get(name) != theirs.get(name))
        raise ValueError(f"{checkpoint.directory}: expected the configuration of the run, with {name} "
                         f"{ours.get(name)!r}, got {theirs.get(name)!r}")
    optimizer, file = make_optimizer(model), checkpoint.directory / "optimizer.safetensors"
    try:
        optimizer.load_state(load_file(file), checkpoint.step)
    except (SafetensorError, ValueError, OSError) as error:
        raise ValueError(f"{file}: expected the memory of the optimizer, got another file ({error})") from error
    return model, optimizer


def write_json(file, document):
    """Write a JSON file at once or not at all."""
    replace_text(file, json.dumps(document, indent=1, default=str) + "\n")


def replace_text(file, text):
    """Write a text file, or replace one, at once or not at all."""
    new = file.with_name(f"{file.name}.new")
    try:
        new.write_text(text, encoding="utf-8")
        flush(new)
        os.replace(new, file)
    finally:
        new.unlink(missing_ok=True)


def read_versioned(file, version):
    """The JSON object in a file that says which "version" it is. Raises ValueError unless it is this one."""
    try:
        document = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{file}: expected a file of the run, got a path where nothing is") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: expected JSON, got a file that is not JSON or was cut short ({error})") from error
    found = document.get("version") if isinstance(document, dict) else None
    if found != version:
        raise ValueError(f'{file}: expected "version" to be {version}, got {found!r}; another version of tinyllama '
                         "wrote this run")
    return document


def flush(path):
    """Wait until a file, or what a directory lists, is on the disk: a power failure then cannot undo it."""
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR
    with contextlib.suppress(PermissionError) if os.name == "nt" else contextlib.nullcontext():
        descriptor = os.open(path, flags)       # Windows opens no directories, and needs no such care for them
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
