"""From any format that is read to one that is written, with the tokenizer."""

import contextlib
import math
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import safetensors.numpy
from safetensors import SafetensorError, safe_open

from tinyllama.formats import llama2c
from tinyllama.formats.checkpoint import build, check_tensors, expected_shapes
from tinyllama.formats.huggingface import save
from tinyllama.formats.loading import read_checkpoint
from tinyllama.formats.peft import CONFIG as ADAPTER_CONFIG
from tinyllama.formats.peft import WEIGHTS as ADAPTER_WEIGHTS
from tinyllama.tokenizers import load_tokenizer
from tinyllama.tokenizers.chat_template import TEMPLATE_FILE, load_chat_template
from tinyllama.tokenizers.files import TOKENIZER_FILE

CHOICES = ("float32", "float16", "bfloat16")
STORED = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
BESIDE = "tokenizer.bin"        # where llama2.c has the tokenizer of a model
# What belongs to a model in a directory of Hugging Face, and says nothing of its weights.
COMPANIONS = (TOKENIZER_FILE, "tokenizer.model", "vocab.json", "merges.txt", "tokenizer_config.json",
              "special_tokens_map.json", "added_tokens.json", TEMPLATE_FILE, "generation_config.json")
# The cosines and sines of a file of llama2.c that are not, to the bit, those that we compute: no reader needs them, but
# without them the way to a directory and back would not give the same file.
TABLES, TABLES_FILE = "cos_and_sin", "llama2c_tables.safetensors"
BESIDE_WEIGHTS = (*COMPANIONS, TABLES_FILE)
ADAPTER = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
WEIGHTS = ("config.json", "model*.safetensors", "model.safetensors.index.json", *ADAPTER)


class Conversion(NamedTuple):
    """What was written."""

    destination: Path
    parameters: int
    dtype: str
    companions: tuple       # the names of the files beside the weights
    no_tokenizer: str       # why there is no tokenizer; empty where there is one


def convert(source, destination, dtype=None, *, tokenizer=None, overwrite=False, watch=lambda done, total: None):
    """Write the model at `source` as a directory of Hugging Face, or as a file of llama2.c if its name ends in ".bin".

    dtype: "float32", "float16" or "bfloat16"; None is that of the source where all its weights have one, else float32.
    tokenizer: a path; None takes what belongs to the source: its own files, or tokenizer.bin beside a file of llama2.c.
    overwrite: whether a model that is at `destination` may be replaced. watch(done, total) is told how many weights
    have been read.

    Returns a `Conversion`. Raises ValueError or OSError, naming the path, where the source cannot be read or held by
    the other format, or the destination is taken; nothing is written before that is known.
    """
    source, destination = Path(source), Path(destination)
    to_file = destination.suffix == ".bin" and not destination.is_dir()
    _check_destination(source, destination, to_file, overwrite)
    checkpoint = read_checkpoint(source)
    check_tensors(checkpoint)
    dtype = _dtype(checkpoint, dtype, to_file)
    given = load_tokenizer(tokenizer) if tokenizer is not None else None
    if given is not None and given.vocab_size != checkpoint.config.vocab_size:
        raise ValueError(f"{tokenizer}: expected a tokenizer of {checkpoint.config.vocab_size} tokens, as the model "
                         f"has, got one of {given.vocab_size}")
    tables = _read_tables(source, checkpoint.config)
    parameters = sum(map(math.prod, expected_shapes(checkpoint.config).values()))
    watched = checkpoint._replace(tensors=_watched(checkpoint, parameters, watch))
    if to_file:
        llama2c.write(watched.config, watched.tensors, destination, tables)
        return Conversion(destination, parameters, dtype, (), "a file of llama2.c has none in it")
    model = build(watched, backend="numpy", dtype="float64" if dtype == "float64" else "float32")
    with _set_aside(destination, ADAPTER):      # one that is to be replaced: a model beside it would be two in one
        save(model, destination, dtype)
    companions, problem = _write_companions(source, destination, given, tables)
    return Conversion(destination, parameters, dtype, companions, problem)


@contextlib.contextmanager
def _set_aside(directory, names):
    """Files under other names for a while: they come back after an error, and are removed otherwise."""
    moved = {directory / name: directory / f"{name}.replaced" for name in names if (directory / name).exists()}
    for file, aside in moved.items():
        file.replace(aside)
    try:
        yield
    except BaseException:
        for file, aside in moved.items():
            aside.replace(file)
        raise
    for aside in moved.values():
        aside.unlink()


def _check_destination(source, destination, to_file, overwrite):
    if destination.exists() and source.exists() and destination.samefile(source):
        raise ValueError(f"{destination}: expected another path than that of the source, got the same")
    if destination.suffix in (".gguf", ".safetensors", ".pth", ".pt"):
        raise ValueError(f"{destination}: expected a directory, or a file of llama2.c whose name ends in .bin, "
                         f"got a name that ends in {destination.suffix}")
    if not to_file and destination.is_file():
        raise ValueError(f"{destination}: expected a directory to save the model in, got a file")
    held = [destination.name] if to_file and destination.exists() else \
        [file.name for pattern in (*WEIGHTS, *BESIDE_WEIGHTS) for file in sorted(destination.glob(pattern))]
    if held and not overwrite:
        raise ValueError(f"{destination}: expected a path without a model, got one with {', '.join(held)}; "
                         "--force replaces it")


def _dtype(checkpoint, dtype, to_file):
    if dtype not in (None, *CHOICES):
        raise ValueError(f"dtype: expected one of {', '.join(CHOICES)}, got {dtype!r}")
    if to_file:
        if dtype not in (None, "float32"):
            raise ValueError(f"dtype: expected float32 for a file of llama2.c, got {dtype!r}")
        return "float32"
    kinds = {tensor.kind for tensor in checkpoint.tensors.values()}
    stored = STORED.get(kinds.pop(), "float32") if len(kinds) == 1 else "float32"
    return dtype or stored


class _Watched:
    """A tensor that tells how many of its weights have been read."""

    def __init__(self, tensor, tell):
        self.tensor, self.tell = tensor, tell
        self.shape, self.kind = tensor.shape, tensor.kind

    def read(self, rows=slice(None)):
        array = self.tensor.read(rows)
        self.tell(array.size)
        return array


def _watched(checkpoint, total, watch):
    """The tensors of the model, without a head that says nothing new; each tells how many have been read so far."""
    done = 0

    def tell(count):
        nonlocal done
        done += count
        watch(done, total)

    return {name: _Watched(checkpoint.tensors[name], tell) for name in expected_shapes(checkpoint.config)}


# ---- what goes along

def tokenizer_of(source):
    """The tokenizer that belongs to the model at a path: (tokenizer, "") or (None, why there is none)."""
    path = source.with_name(BESIDE) if source.suffix == ".bin" else source
    try:
        return load_tokenizer(path), ""
    except (FileNotFoundError, ValueError) as error:
        return None, str(error)


def _read_tables(source, config):
    """The tables that a file of llama2.c would not get by itself, or None; see TABLES."""
    file = source / TABLES_FILE
    if source.is_file():
        return llama2c.read_tables(source, config)
    if not file.exists():
        return None
    expected = {TABLES: ("F32", llama2c.table_shape(config))}
    try:
        with safe_open(file, framework="numpy") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}       # noqa: SIM118, it is no dict
            got = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
            if got == expected:
                return opened.get_tensor(TABLES)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: expected safetensors, got something else, or a file that was cut short "
                         f"({error})") from error
    raise ValueError(f"{file}: expected {expected}, got {str(got)[:200]}; without this file "
                     "the tables are computed")


def _write_companions(source, destination, tokenizer, tables):
    """(names of the files that were written, why there is no tokenizer among them).

    Those of an older model are removed: its tokenizer would be taken for that of the new one.
    """
    for name in BESIDE_WEIGHTS:
        (destination / name).unlink(missing_ok=True)
    copied = [name for name in COMPANIONS if tokenizer is None and source.is_dir() and (source / name).is_file()]
    for name in copied:
        new = destination / f"{name}.new"
        shutil.copyfile(source / name, new)
        os.replace(new, destination / name)
    problem = ""
    if tokenizer is None and TOKENIZER_FILE not in copied:
        tokenizer, problem = tokenizer_of(source)
    if tokenizer is not None:
        tokenizer.save(destination / TOKENIZER_FILE)
        if source.is_file() and (template := load_chat_template(source, tokenizer)) is not None:
            (destination / TEMPLATE_FILE).write_text(template.source, encoding="utf-8")
    if tables is not None:
        (destination / TABLES_FILE).write_bytes(safetensors.numpy.save({TABLES: tables}))
    written = tuple(name for name in BESIDE_WEIGHTS if (destination / name).is_file())
    return written, problem
