"""The Hugging Face directory: config.json says what the model is, files of safetensors hold the weights by name."""

import itertools
import json
import os
import re
import shutil
from pathlib import Path, PureWindowsPath

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tinyllama.formats.architectures import read_config, write_config
from tinyllama.formats.checkpoint import Checkpoint, SomeRows, Tensor
from tinyllama.formats.loading import REFUSED
from tinyllama.formats.peft import CONFIG as ADAPTER
from tinyllama.ops.quantized_linear import Quantized

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"      # of a large checkpoint: which of several files holds which tensor
READABLE = ("F64", "F32", "F16", "BF16")    # by safetensors' names
DTYPES = {"float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
SHARD = re.compile(r"model(\.\d+)?-\d{5}-of-\d{5}\.safetensors")     # one of several files of weights
MAX_SHARD_BYTES = 5 * 10**9
MOST_JSON_BYTES = 2**26                     # a larger file is no config.json and no index


# ---- reading

def read_checkpoint(path):
    """The `Checkpoint` in a directory: one that `save` wrote, or a LLaMA of Hugging Face, perhaps in several files.

    The tensors may be float64, float32, float16 or bfloat16.

    Raises FileNotFoundError where one of the files is missing. Raises ValueError where config.json is not that of a
    supported model, where the weights are cut short or no safetensors, where they hold other numbers, where the index
    names files outside the directory, and where an adapter lies beside the model, so that two could be meant. Each
    names the file, what was expected and what came.
    """
    directory = Path(path)
    if (directory / ADAPTER).exists():
        raise ValueError(f"{directory}: expected a model or an adapter, got both, config.json and {ADAPTER}; move one "
                         "away: tl.load_adapter(MODEL, ADAPTER) puts it on the other")
    file = _config_in_force(directory)
    settings = _read_json(file)
    try:
        config = read_config(settings)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{file}: {error}") from error
    tensors = {}
    for file in _find_weights(directory):
        opened = _open(file)
        for name in opened.keys():          # noqa: SIM118, it is no dict
            if name.endswith("rotary_emb.inv_freq"):        # older versions of transformers wrote these
                continue
            if name in tensors:
                raise ValueError(f"{file}: expected each tensor in one file only, got {name} in two")
            tensors[name] = _tensor(opened.get_slice(name), f"{file}: {name}")
    if settings.get("model_type") == "phi3":
        tensors = _split_fused(tensors, config)
    return Checkpoint(directory, config, tensors)


class _Rows:
    """The rows of a slice of safetensors, by a slice or by an array of their numbers."""

    def __init__(self, opened):
        self.opened = opened

    def __getitem__(self, rows):
        if isinstance(rows, slice):
            start, stop, step = rows.indices(self.opened.get_shape()[0])
            if step == 1 and start < stop:
                return self.opened[start:stop]
            rows = np.arange(start, stop, step)
        first, stop = (int(rows.min()), int(rows.max()) + 1) if len(rows) else (0, 1)
        return self.opened[first:stop][rows - first]


def _tensor(opened, where):
    if opened.get_dtype() not in READABLE:
        raise ValueError(f"{where}: expected one of {', '.join(READABLE)}, got {opened.get_dtype()}")
    return Tensor(_Rows(opened), opened.get_shape(), opened.get_dtype())


def _split_fused(tensors, config):
    """Phi-3's tensors under the names of their parts: qkv_proj is q, k and v, gate_up_proj is gate and up."""
    heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads, "v": config.num_key_value_heads}
    parts = {"qkv_proj": [(f"{name}_proj", count * config.head_dim) for name, count in heads.items()],
             "gate_up_proj": [(f"{name}_proj", config.intermediate_size) for name in ("gate", "up")]}
    split = {}
    for name, tensor in tensors.items():
        fused = name.split(".")[-2:][0]
        sizes = parts.get(fused, ())
        if not sizes or tensor.shape[0] != sum(size for _, size in sizes):      # the latter is refused by its name
            split[name] = tensor
            continue
        start = 0
        for part, size in sizes:
            split[name.replace(fused, part)] = SomeRows(tensor, range(start, start + size))
            start += size
    return split


def _read_json(file):
    """The JSON object in a file."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: expected the configuration of a LLaMA, got a directory without it")
    if file.stat().st_size > MOST_JSON_BYTES:
        raise ValueError(f"{file}: expected at most {MOST_JSON_BYTES} bytes of JSON, got {file.stat().st_size}")
    try:
        document = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:       # not JSON, not even text, or nested without end
        raise ValueError(f"{file}: expected JSON, got a file that is not JSON or was cut short ({error})") from error
    if not isinstance(document, dict):
        raise ValueError(f"{file}: expected a JSON object, got JSON of another kind: {str(document)[:40]}")
    return document


def _find_weights(directory):
    """The files that hold the weights."""
    weights, index = _weights_in_force(directory), directory / INDEX
    if weights.exists() or not index.exists():
        names = [weights.name]
    else:
        names = _indexed(index)
    for name in names:
        if not (directory / name).is_file():
            pickles = [file.name for pattern in ("pytorch_model*.bin", "*.pth", "*.pt")
                       for file in directory.glob(pattern)]
            if pickles and name == WEIGHTS:
                raise ValueError(f"{directory / WEIGHTS}: expected the weights as safetensors, "
                                 f"got {pickles[0]}, {REFUSED}")
            raise FileNotFoundError(f"{directory / name}: expected the weights, got a directory without this file")
    return [directory / name for name in names]


def _indexed(index):
    """The names of the files that an index names. They have to lie beside it."""
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ValueError(f'{index}: expected "weight_map", the file of each tensor, got {str(weight_map)[:80]}')
    for name in weight_map.values():
        # PureWindowsPath knows / as well as \ and drives.
        if PureWindowsPath(name).name != name or name in ("", "..") or "\0" in name:
            raise ValueError(f"{index}: expected the names of files in its own directory, got {name[:80]!r}")
    return sorted(set(weight_map.values()))


def _open(file):
    try:
        return safe_open(file, framework="numpy")
    except SafetensorError as error:
        raise ValueError(f"{file}: expected safetensors, got a file of another kind or one that was cut short "
                         f"({error})") from error


# ---- writing

def save(model, path, dtype=None, *, max_shard_bytes=MAX_SHARD_BYTES):
    """Write a model as the directory `path`, which `load` reads and, for a known family, `transformers` too.

    dtype: "float16", "bfloat16", "float32" or "float64"; None is that of the model. Weights of more than
    `max_shard_bytes` are written to several files of at most that size each, with an index; a tensor is never divided.
    Folders on the way are made. In a directory that exists, config.json and the weights are replaced and all other
    files stay. Whatever goes wrong, and whenever, `load` then finds the old checkpoint or the new one, never a mixture.

    Raises ValueError where `path` is a file or holds an adapter, for another dtype, and for a weight that is too large
    for it; TypeError for a quantised model; OSError where the directory cannot be written.
    """
    directory = Path(path)
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{path}: expected a directory to save the model in, got a file")
    if (directory / ADAPTER).exists():
        raise ValueError(f"{path}: expected a directory without an adapter to save the model in, got one with "
                         f"{ADAPTER}")
    dtype = model.dtype.name if dtype is None else dtype
    if dtype not in DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, or None, got {dtype!r}")
    if any(isinstance(array, Quantized) for array in model.parameters.values()):
        raise TypeError("model: expected one with floating-point weights, got a quantised one; a quantised model can "
                        "be neither saved nor trained")
    settings = write_config(model.config)
    if settings["model_type"] != "tinyllama":
        settings["torch_dtype"] = dtype
    directory.mkdir(parents=True, exist_ok=True)
    _complete_the_last_save(directory)
    shards = _share_out(model.parameters, np.dtype(DTYPES[dtype]).itemsize, max_shard_bytes)
    files = [_new(directory / WEIGHTS)] if len(shards) == 1 else _fresh_files(directory, len(shards))
    is_committed = False
    try:
        for names, file in zip(shards, files, strict=True):
            _write_weights({name: _converted(model, name, DTYPES[dtype]) for name in names}, file)
        if len(shards) > 1:
            sizes = sum(array.size for array in model.parameters.values()) * np.dtype(DTYPES[dtype]).itemsize
            weight_map = {name: file.name for names, file in zip(shards, files, strict=True) for name in names}
            _write_json({"metadata": {"total_size": sizes}, "weight_map": weight_map}, _new(directory / INDEX))
        _write_json(settings, _new(directory / CONFIG))
        for file in files:
            shutil.copymode(_new(directory / CONFIG), file)     # safetensors makes files that only their owner can read
            _flush(file)
        _commit(directory, WEIGHTS if len(shards) == 1 else INDEX)
        is_committed = True
        os.replace(_new(directory / CONFIG), directory / CONFIG)
    finally:
        if not is_committed:
            _take_back(directory, files)
    _remove_what_was_replaced(directory)


def _share_out(parameters, itemsize, max_shard_bytes):
    """Lists of names, whose arrays take at most `max_shard_bytes` together where there are several in a list."""
    shards, size = [[]], 0
    for name, array in parameters.items():
        size += array.size * itemsize
        if shards[-1] and size > max_shard_bytes:
            shards.append([])
            size = array.size * itemsize
        shards[-1].append(name)
    return shards


def _fresh_files(directory, count):
    """Names for several files of weights, of which none exists: those in force must stay as they are for now."""
    for attempt in itertools.count():
        stem = f"model.{attempt}" if attempt else "model"
        files = [directory / f"{stem}-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
        if not any(file.exists() for file in files):
            return files


def _converted(model, name, dtype):
    """A parameter as safetensors takes it: on the host, contiguous (strides would be ignored), in the dtype to save."""
    array = np.ascontiguousarray(model.backend.to_numpy(model.parameters[name]))
    with np.errstate(over="ignore"):
        converted = array.astype(dtype, copy=False)
    if np.any(np.isinf(converted) & np.isfinite(array)):
        raise ValueError(f"{name}: expected weights that {np.dtype(dtype).name} can hold, "
                         f"got {np.abs(array[np.isfinite(array)]).max()}")
    return converted


def _write_weights(tensors, file):
    try:
        save_file(tensors, file, metadata={"format": "pt"})     # transformers asks for this "format"
    except SafetensorError as error:
        raise OSError(f"{file}: the weights could not be written ({error})") from error


def _write_json(document, file):
    file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    _flush(file)


def _flush(file):
    """Wait until the file is on the disk, so that not even a power failure leaves its name without its contents."""
    with open(file, "rb+") as stream:
        os.fsync(stream.fileno())


# ---- one checkpoint in the place of another
#
# Several files belong together and only one can be replaced at a time. So all new ones are written beside the old ones
# first: the weights, the index where there are several files of them, and last the config. Then the moment that counts
# is the move of the weights, or of the index, to the place of the old:
#     new weights or index there      the old checkpoint is in force, and all new files are waste
#     only a new config there         the new checkpoint is in force, its config still under the name config.json.new
# Where an index takes the place of a single file, that file has to be moved out of the way before, because it comes
# first; until the index is in its place, it counts under its other name.

def _new(file):
    """The name under which the successor of a file is written."""
    return file.with_name(f"{file.name}.new")


def _replaced(directory):
    """The name of a single file of weights whose place an index takes."""
    return directory / f"{WEIGHTS}.replaced"


def _config_in_force(directory):
    """config.json, or config.json.new where a save was interrupted after the new weights were in place."""
    is_waiting = _new(directory / WEIGHTS).exists() or _new(directory / INDEX).exists()
    return _new(directory / CONFIG) if _new(directory / CONFIG).exists() and not is_waiting else directory / CONFIG


def _weights_in_force(directory):
    """The single file of weights, which may not exist."""
    weights, replaced = directory / WEIGHTS, _replaced(directory)
    is_moved = not weights.exists() and replaced.exists() and _new(directory / INDEX).exists()
    return replaced if is_moved else weights


def _commit(directory, name):
    """Put the new weights, or the new index, in force."""
    if name == INDEX and (directory / WEIGHTS).exists():
        os.replace(directory / WEIGHTS, _replaced(directory))
    os.replace(_new(directory / name), directory / name)


def _take_back(directory, files):
    """Remove the new files of a save that did not come to its end; the config first, which alone would count."""
    if _weights_in_force(directory) == _replaced(directory):
        os.replace(_replaced(directory), directory / WEIGHTS)
    waste = (_new(directory / CONFIG), *files, _replaced(directory), _new(directory / WEIGHTS), _new(directory / INDEX))
    for file in waste:
        file.unlink(missing_ok=True)


def _complete_the_last_save(directory):
    """Where a save was interrupted, do what it would have done: what is in force gets its own name, the rest goes."""
    if _config_in_force(directory) == _new(directory / CONFIG):
        os.replace(_new(directory / CONFIG), directory / CONFIG)
    _take_back(directory, [])


def _remove_what_was_replaced(directory):
    """Remove the index of older weights, and files that are named like parts of a model but belong to none."""
    _replaced(directory).unlink(missing_ok=True)        # no longer in force: a failed save left it, or this one
    if (directory / WEIGHTS).exists():
        (directory / INDEX).unlink(missing_ok=True)
    used = _indexed(directory / INDEX) if (directory / INDEX).exists() else ()
    for file in directory.iterdir():
        if SHARD.fullmatch(file.name) and file.name not in used:
            file.unlink()
