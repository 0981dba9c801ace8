"""The directory of a run: what lies where, who may have it, and how a run comes back from it.

    run.json                                        the settings, written first: from here on the directory is taken
    tokenizer.json                                  of the model
    data/                                           the text as tokens, to train on and to validate with
    checkpoints/step-N/                             the last state (`checkpoints`)
    config.json, model.safetensors                  the best model so far; with LoRA only
    adapter_config.json, adapter_model.safetensors  the best updates so far, of the model that the former names
    metrics.jsonl, tensorboard/                     the figures of every step (`metrics`)
    loss.png, loss-dark.png                         their picture, at the end
"""

import contextlib
import dataclasses
import hashlib
import os
import re
import shutil
from pathlib import Path

from tinyllama.data import Tokens
from tinyllama.models import LlamaConfig
from tinyllama.tokenizers import load_tokenizer
from tinyllama.tokenizers.files import TOKENIZER_FILE
from tinyllama.training.checkpoints import FOLDER, flush, latest_checkpoint, read_versioned, write_json
from tinyllama.training.metrics import BOARD
from tinyllama.training.metrics import FILE as METRICS
from tinyllama.training.preparation import Preparation, prepare
from tinyllama.training.settings import RunSettings

RUN = "run.json"
DATA = "data"
VERSION = 1
NAMES = (RUN, TOKENIZER_FILE, DATA, FOLDER, "config.json", "model.safetensors", METRICS, BOARD, "loss.png",
         "loss-dark.png")
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")     # of a run with LoRA, which has no model of its own
_INPUTS = ("from_model", "tokenizer")
_PATHS = ("out", *_INPUTS)
# By safetensors or by us, in a process that was killed.
_HALF_WRITTEN = re.compile(r"\.tmp\w{6}|tokenizer\.json\.\d+\.tmp|adapter_\w+\.(json|safetensors)\.new")


def claim(preparation):
    """Make the directory of a new run, and run.json in it, which tells every other run that it is taken.

    It is the one asked for, if nothing in it would be lost, else the first free runs/NAME-N. Raises ValueError where
    the one asked for is taken or is a file, OSError where it cannot be written: now, and not after hours of training.
    """
    settings = preparation.settings
    out = settings.out
    if out is not None:
        if out.exists() and not out.is_dir():
            raise ValueError(f"out: expected a directory, got the file {out}")
        held = [name for name in (*NAMES, *ADAPTER) if (out / name).exists()]
        if held:
            advice = f"; to go on with it: {resume_command(out)}" if RUN in held else ""
            raise ValueError(f"out: expected a directory without a model, but {out} holds {', '.join(held)}; "
                             f"choose another, or move that one away{advice}")
    document = dataclasses.asdict(settings) | {name: str(value) for name in _PATHS
                                               if (value := getattr(settings, name)) is not None}
    # A run goes on from wherever it is resumed, and its directory may be moved: what it was made from stays.
    document |= {name: str(Path(document[name]).resolve()) for name in _INPUTS if document[name] is not None}
    with readable_errors(out or Path("runs")):
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
        else:
            name = re.sub(r"[^\w-]+", "-", Path(settings.data).stem).strip("-") or "run"
            number = 1
            while (out := _made(Path("runs") / f"{name}-{number}")) is None:
                number += 1
        try:
            write_json(out / RUN, {"version": VERSION, "workers": preparation.workers,
                                   "config": preparation.config.to_dict(), "settings": document})
        except OSError:
            release(out)
            raise
    return out


def fill(out, preparation):
    """Write the tokenizer and the tokens into the directory of the run."""
    preparation.tokenizer.save(out / TOKENIZER_FILE)
    flush(out / TOKENIZER_FILE)
    new = out / f"{DATA}.new"
    shutil.rmtree(new, ignore_errors=True)
    preparation.train.save(new, "train")
    preparation.held_back.save(new, "validation")
    write_json(new / "corpus.json", {"version": VERSION, **preparation.corpus})
    flush(new)
    os.rename(new, out / DATA)
    flush(out)


def reopen(out):
    """The `Preparation` of the run in the directory `out`, from its files.

    Where the process was killed before they were all written, they are made again. Raises FileNotFoundError where there
    is no run, ValueError where a file is damaged or of another version.
    """
    out = Path(out)
    if not (out / RUN).exists():
        raise FileNotFoundError(f"out: expected the directory of a run, which holds {RUN}, got {out} without it")
    document = read_versioned(out / RUN, VERSION)
    given = document.get("settings")
    try:
        settings = RunSettings(**given | {name: Path(given[name]) for name in _PATHS if given.get(name)})
        config, workers = LlamaConfig.from_dict(document["config"]), document["workers"]
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        raise ValueError(f"{out / RUN}: expected the settings of a run, got others ({error})") from error
    for path in out.iterdir():
        if _HALF_WRITTEN.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink()
    if not (out / DATA).is_dir():
        preparation = dataclasses.replace(prepare(settings), workers=workers)
        with readable_errors(out):
            fill(out, preparation)
        return preparation
    corpus = read_versioned(out / DATA / "corpus.json", VERSION)
    train, held_back = (Tokens.open(out / DATA, name) for name in ("train", "validation"))
    return Preparation(settings, load_tokenizer(out), train, held_back, corpus, workers, config)


def tokenizer_digest(out):
    """What tells one tokenizer.json from another: its SHA-256."""
    return hashlib.sha256((out / TOKENIZER_FILE).read_bytes()).hexdigest()


def require_the_same_tokenizer(out, checkpoint):
    """Raise ValueError where tokenizer.json is not the one that the checkpoint was trained with."""
    expected, found = checkpoint.facts["tokenizer"], tokenizer_digest(out)
    if found != expected:
        raise ValueError(f"{out / TOKENIZER_FILE}: expected the tokenizer that {checkpoint.directory} was trained with "
                         f"(SHA-256 {expected[:12]}...), got another one ({found[:12]}...)")


@contextlib.contextmanager
def readable_errors(out):
    """Turn an OSError, such as that of a full disk, into one that says what is safe and how to go on."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        where = f" ({error.filename})" if error.filename else ""
        safe = ""
        with contextlib.suppress(OSError, ValueError):
            if last := latest_checkpoint(out):
                safe = (f"; the checkpoint of step {last.step:,} is intact. Once that is mended, go on with: "
                        f"{resume_command(out)}")
        raise OSError(f"{out}: the run could not be written: {reason}{where}{safe}") from error


def resume_command(out):
    """What to type to go on with a run."""
    return f"tinyllama train --out {as_typed(out)} --resume"


def as_typed(path):
    """A path as it is typed in a shell."""
    return f'"{path}"' if " " in str(path) else str(path)


def release(out):
    """Leave nothing behind of a run that failed before it had something to save, as far as that is possible."""
    if latest_checkpoint(out) is not None:
        return
    with contextlib.suppress(OSError):      # what stopped the run may stop this too
        for path in out.iterdir():
            if path.name.removesuffix(".new") not in (*NAMES, *ADAPTER):
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        if not any(out.iterdir()):
            out.rmdir()


def _made(directory):
    """The directory, if it is this call that made it."""
    try:
        directory.mkdir(parents=True)
    except FileExistsError:
        return None
    return directory
