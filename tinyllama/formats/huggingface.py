"""The Hugging Face directory: config.json says what the model is, model.safetensors holds the weights by name."""

import contextlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tinyllama.models import Llama, LlamaConfig

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"      # of a large checkpoint: which of several files holds which tensor
READABLE = ("F64", "F32", "F16")            # by safetensors' names; NumPy knows no bfloat16


def save(model, path):
    """Write a model as the directory `path`, which `load` reads and, for a plain LLaMA, `transformers` too.

    Folders on the way are made. In a directory that exists, config.json and model.safetensors are replaced and all
    other files stay. Whatever goes wrong, and whenever, `load` then finds the old checkpoint or the new one, never a
    mixture. Raises ValueError where `path` is a file, OSError where the directory cannot be written.
    """
    directory = Path(path)
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{path}: expected a directory to save the model in, got a file")
    # ascontiguousarray, because safetensors would write the memory of any other array, without its strides.
    tensors = {name: np.ascontiguousarray(model.backend.to_numpy(array)) for name, array in model.parameters.items()}
    settings = json.dumps(model.config.to_dict(), indent=2)
    directory.mkdir(parents=True, exist_ok=True)

    # Two files belong together and only one can be replaced at a time. So both are written beside the old ones first,
    # the weights before the config, and then moved in that order. The moment that counts is the move of the weights:
    #     new weights there           the old checkpoint is in force, and both new files are waste
    #     only a new config there     the new checkpoint is in force, its config still under the name config.json.new
    # `load` goes by the same rule, and the next save finishes what this one could not.
    config, weights = directory / CONFIG, directory / WEIGHTS
    new_config, new_weights = _new(config), _new(weights)
    if _config_in_force(directory) == new_config:
        os.replace(new_config, config)
    try:
        try:
            save_file(tensors, new_weights, metadata={"format": "pt"})  # transformers asks for this "format"
        except SafetensorError as error:
            raise OSError(f"{new_weights}: the weights could not be written ({error})") from error
        new_config.write_text(settings + "\n", encoding="utf-8")
        shutil.copymode(new_config, new_weights)        # safetensors makes files that only their owner can read
        for file in (new_weights, new_config):
            _flush(file)
        os.replace(new_weights, weights)
        os.replace(new_config, config)
    finally:
        if new_weights.exists():
            new_config.unlink(missing_ok=True)
            new_weights.unlink()


def load(path, backend=None, dtype="float32", *, frozen=(), workers=None):
    """The model in the directory `path`: one that `save` wrote, or a LLaMA of Hugging Face, perhaps in several files.

    backend, dtype, frozen, workers: see `Llama`. The tensors may be float64, float32 or float16, and become `dtype`.

    Raises FileNotFoundError where the directory or one of its files is missing. Raises ValueError where `path` is a
    file, where config.json is not the configuration of a LLaMA, where the weights are cut short or no safetensors, and
    where the two do not belong together: a tensor is missing, unexpected, or of another shape or kind. Each names the
    file, what was expected and what came.
    """
    directory = Path(path)
    if not directory.exists():
        raise FileNotFoundError(f"{path}: expected a directory with {CONFIG} and weights, got a path where nothing is")
    if not directory.is_dir():
        raise ValueError(f"{path}: expected a directory with {CONFIG} and weights, got a file")
    config = _read_config(_config_in_force(directory))
    weight_files = _find_weights(directory)
    with contextlib.ExitStack() as stack:
        tensors = {}                                                    # name -> a slice, which is read on demand
        for file in weight_files:
            opened = stack.enter_context(_open(file))
            tensors.update({name: opened.get_slice(name) for name in opened.keys()})    # noqa: SIM118, it is no dict
        _check_embedding(tensors, config, directory)
        try:
            model = Llama(config, backend=backend, dtype=dtype, seed=None, frozen=frozen, workers=workers)
        except MemoryError as error:
            raise ValueError(f"{directory / CONFIG}: expected a model that fits into the memory here, "
                             f"got one that does not ({error})") from error
        _check(tensors, model, directory)
        for name, parameter in model.parameters.items():
            parameter[...] = model.backend.asarray(tensors[name][:])
    return model


def _new(file):
    """The name under which the successor of a file is written."""
    return file.with_name(f"{file.name}.new")


def _config_in_force(directory):
    """config.json, or config.json.new where a save was interrupted after the new weights were in place."""
    config, new_config = directory / CONFIG, _new(directory / CONFIG)
    return new_config if new_config.exists() and not _new(directory / WEIGHTS).exists() else config


def _flush(file):
    """Wait until the file is on the disk, so that not even a power failure leaves its name without its contents."""
    with open(file, "rb+") as stream:
        os.fsync(stream.fileno())


def _read_config(file):
    settings = _read_json(file)
    try:
        return LlamaConfig.from_dict(settings)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{file}: {error}") from error


def _read_json(file):
    """The JSON object in a file."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: expected the configuration of a LLaMA, got a directory without it")
    try:
        document = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:       # not JSON, not even text, or nested without end
        raise ValueError(f"{file}: expected JSON, got a file that is not JSON or was cut short ({error})") from error
    if not isinstance(document, dict):
        raise ValueError(f"{file}: expected a JSON object, got JSON of another kind: {str(document)[:40]}")
    return document


def _find_weights(directory):
    """The files that hold the weights."""
    if (directory / WEIGHTS).exists() or not (directory / INDEX).exists():
        names = [WEIGHTS]
    else:
        weight_map = _read_json(directory / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise ValueError(f'{directory / INDEX}: expected "weight_map", the file of each tensor, got {weight_map!r}')
        names = sorted(set(weight_map.values()))
    for name in names:
        if not (directory / name).is_file():
            raise FileNotFoundError(f"{directory / name}: expected the weights, got a directory without this file")
    return [directory / name for name in names]


def _open(file):
    try:
        return safe_open(file, framework="numpy")
    except SafetensorError as error:
        raise ValueError(f"{file}: expected safetensors, got a file of another kind or one that was cut short "
                         f"({error})") from error


def _check_embedding(tensors, config, directory):
    """Raise ValueError where the table of the embedding has another shape: before anything is allocated for it."""
    name, expected = "model.embed_tokens.weight", (config.vocab_size, config.hidden_size)
    if name in tensors and tuple(tensors[name].get_shape()) != expected:
        raise ValueError(f"{directory}: the weights are not those that {CONFIG} describes: {name}: expected the shape "
                         f"{expected}, got {tuple(tensors[name].get_shape())}")


def _check(tensors, model, directory):
    """Raise ValueError unless the tensors are the parameters of the model, and drop those that say nothing new."""
    for name in list(tensors):
        if name.endswith("rotary_emb.inv_freq"):        # older versions of transformers wrote these
            del tensors[name]
    problems = [f"{name}: expected one of {', '.join(READABLE)}, got {tensor.get_dtype()}"
                for name, tensor in tensors.items() if tensor.get_dtype() not in READABLE]
    expected = {name: parameter.shape for name, parameter in model.parameters.items()}
    if model.config.tie_word_embeddings and "lm_head.weight" in tensors and not problems:
        head, embedding = tensors.pop("lm_head.weight"), tensors.get("model.embed_tokens.weight")
        if embedding is not None and not np.array_equal(head[:], embedding[:]):
            problems.append("lm_head.weight: expected the same as model.embed_tokens.weight, because "
                            "tie_word_embeddings is true, got other values")
    problems += [f"{name}: expected the shape {shape}, got no such tensor"
                 for name, shape in expected.items() if name not in tensors]
    problems += [f"{name}: expected no such tensor, got one of the shape {tuple(tensor.get_shape())}"
                 for name, tensor in tensors.items() if name not in expected]
    problems += [f"{name}: expected the shape {shape}, got {tuple(tensors[name].get_shape())}"
                 for name, shape in expected.items()
                 if name in tensors and tuple(tensors[name].get_shape()) != tuple(shape)]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise ValueError(f"{directory}: the weights are not those that {CONFIG} describes: {shown}")
