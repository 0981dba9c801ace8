"""LoRA adapters on disk, as the library PEFT lays them out: a directory with two files.

    adapter_config.json             rank, alpha, targets, and the name of the model that the adapter belongs to
    adapter_model.safetensors       A and B of every target: base_model.model.NAME.lora_A.weight, ...lora_B.weight

As a model of its own, which `load` and `tinyllama convert` read, such a directory is its base with the updates merged.
"""

import json
import os
import re
import shutil
from pathlib import Path

import ml_dtypes  # noqa: F401, without which NumPy has no bfloat16
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tinyllama.formats.checkpoint import build, check_layers
from tinyllama.models.lora import LoraSettings, add_lora, attach, updates
from tinyllama.models.network import LlamaNetwork
from tinyllama.nn.lora import FACTORS

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
PREFIX = "base_model.model."        # of the names, for the two objects that PEFT wraps around a model
READABLE = ("F64", "F32", "F16", "BF16")
_NAME = re.compile(re.escape(PREFIX) + rf"(.+)\.({'|'.join(map(re.escape, FACTORS))})")
# What an adapter_config.json may say, by key: any of these values, or, where None stands, anything.
ACCEPTED = {
    "peft_type": ("LORA",), "task_type": (None, "CAUSAL_LM"), "bias": (None, "none"),
    # How A and B began; the ways that change the weights of the base as well are not among them.
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"), "eva_config": None,
    "r": None, "lora_alpha": None, "base_model_name_or_path": None, "lora_dropout": None, "inference_mode": None,
    # The names of the tensors say which layers are adapted.
    "target_modules": None, "exclude_modules": None, "layers_to_transform": None, "layers_pattern": None,
    "auto_mapping": None, "peft_version": None, "revision": None, "megatron_core": None, "qalora_group_size": None,
}


def save_adapter(model, path, *, base=None):
    """Write LoRA's updates of a model, without the model, as the directory `path`, which PEFT reads too.

    base: the path or the name of the model that they belong to, which is written down; None for none. Folders on the
    way are made, and other files stay. Each of the two files is replaced at once or not at all, the weights first: a
    process that is killed between the two leaves new weights with the rank and alpha of the older adapter.

    Raises ValueError where the model has no updates, or where `path` is a file or holds a model, which would then be
    two in one; OSError where the directory cannot be written.
    """
    directory = Path(path)
    if getattr(model, "lora", None) is None:
        raise ValueError("model: expected one with LoRA's updates, got one without")
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{path}: expected a directory to save the adapter in, got a file")
    if (held := _model_in(directory)) is not None:
        raise ValueError(f"{path}: expected a directory without a model to save the adapter in, got one with {held}")
    alpha = model.lora.alpha
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": None if base is None else str(base),
        "r": int(model.lora.rank), "lora_alpha": int(alpha) if alpha == int(alpha) else float(alpha),
        "target_modules": sorted({update.name.rpartition(".")[2] for update in updates(model)}), "bias": "none",
        "lora_dropout": 0.0, "fan_in_fan_out": False, "modules_to_save": None, "use_rslora": False, "use_dora": False,
        "inference_mode": True,
    }
    tensors = {PREFIX + name: np.ascontiguousarray(model.backend.to_numpy(model.parameters[name]))
               for update in updates(model) for name in update.shapes}
    directory.mkdir(parents=True, exist_ok=True)
    new_config, new_weights = (directory / f"{name}.new" for name in (CONFIG, WEIGHTS))
    try:
        try:
            save_file(tensors, new_weights, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"{new_weights}: the adapter could not be written ({error})") from error
        new_config.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        shutil.copymode(new_config, new_weights)        # safetensors makes files that only their owner can read
        for new, name in ((new_weights, WEIGHTS), (new_config, CONFIG)):
            with open(new, "rb+") as stream:
                os.fsync(stream.fileno())
            os.replace(new, directory / name)
    finally:
        for new in (new_config, new_weights):
            new.unlink(missing_ok=True)


def load_adapter(model, path, *, backend=None, dtype="float32", workers=None):
    """A model with the updates in the directory `path`, beside frozen weights: to go on training, or to merge.

    model: a `Llama`, which is copied and stays as it is; or the path of one, which is read once, with backend, dtype
    and workers as for `load`. The adapter is one that `save_adapter` or PEFT wrote.

    Raises FileNotFoundError where a file is missing; ValueError where it is damaged, where the adapter is of a kind
    that computes something else (rsLoRA, DoRA, trained biases or whole modules, ranks by module), or where it does not
    fit the model. Each names the file, what was expected and what came.
    """
    settings, _ = read_config(path)
    if isinstance(model, str | os.PathLike):
        from tinyllama.formats.loading import read_checkpoint as read_any
        checkpoint = read_any(model)
        check_layers(checkpoint)
        arrays = _read_arrays(path, settings, checkpoint.config)        # before memory is taken for what may not fit
        adapted = build(checkpoint, backend=backend, dtype=dtype, workers=workers, lora=settings)
    else:
        arrays = _read_arrays(path, settings, model.config)
        adapted = add_lora(model, settings)
    _fill(adapted, arrays)
    return adapted


def read_updates(model, path):
    """Write the updates in the directory `path` into those of a model, whose `lora` is as there.

    Raises ValueError, before anything is written, where they are of other settings or shapes.
    """
    settings, _ = read_config(path)
    if (settings.rank, settings.alpha) != (model.lora.rank, model.lora.alpha):
        raise ValueError(f"{path}: expected an adapter of rank {model.lora.rank} and alpha {model.lora.alpha}, "
                         f"got rank {settings.rank} and alpha {settings.alpha}")
    _fill(model, _read_arrays(path, model.lora, model.config))


def is_adapter(path):
    """Whether a directory holds an adapter and no model of its own."""
    return (path / CONFIG).exists() and _model_in(path) is None


def _model_in(directory):
    """The name of the file that makes a directory one of a model, None where there is none."""
    return next((name for name in ("config.json", "config.json.new") if (directory / name).exists()), None)


def read_checkpoint(path):
    """The `Checkpoint` of the base that an adapter names, with the updates merged as its rows are read.

    The base may be an adapter too. Raises as `load_adapter`, and where the base is not named or not there.
    """
    from tinyllama.formats.loading import read_checkpoint as read_any
    adapters, base = [], Path(path)
    while is_adapter(base):
        if any(base.samefile(adapter) for adapter, _ in adapters):
            raise ValueError(f"{path}: expected an adapter of another model, got one that belongs to itself")
        settings, name = read_config(base)
        adapters.append((base, settings))
        if name is None:
            raise ValueError(f"{base / CONFIG}: expected base_model_name_or_path, the model that the adapter belongs "
                             "to, got none; tl.load_adapter(MODEL, ADAPTER) puts it on any that fits")
        base = Path(name)
        if not base.exists():
            raise FileNotFoundError(f"{adapters[-1][0] / CONFIG}: expected the path of the model that the adapter "
                                    f"belongs to, got {name!r}, where nothing is; tl.load_adapter(MODEL, ADAPTER) puts "
                                    "it on any that fits")
    checkpoint = read_any(base)
    check_layers(checkpoint)
    tensors = dict(checkpoint.tensors)
    for adapter, settings in reversed(adapters):
        arrays = _read_arrays(adapter, settings, checkpoint.config)
        for update in _expected(settings, checkpoint.config, adapter):
            a, b = (arrays[name].astype(np.float64) for name in update.shapes)
            if update.weight in tensors:            # what is missing is missed by `build`
                tensors[update.weight] = MergedTensor(tensors[update.weight], update.scale * a, b)
    return checkpoint._replace(path=Path(path), tensors=tensors)


class MergedTensor:
    """A tensor of a checkpoint with an update: tensor + B @ A, in float64, whose rows are computed as they are read.

    a: (r, I), with the scale in it; b: (O, r).
    """

    def __init__(self, tensor, a, b):
        self.tensor, self.a, self.b = tensor, a, b
        self.shape, self.kind = tensor.shape, tensor.kind

    def read(self, rows=slice(None)):
        """Some rows, as an array of floating point."""
        return self.tensor.read(rows) + self.b[rows] @ self.a           # (n, I) + (n, r) @ (r, I)

    def quantized(self):
        """None: what the file holds as whole numbers is no longer whole with the update."""
        return None


def read_config(path):
    """(`LoraSettings`, the name of the base or None) of the adapter in the directory `path`.

    The targets are those that the names of the tensors tell. lora_dropout is not looked at: it was for training, where
    we drop nothing on the way to A. Raises as `load_adapter`.
    """
    file = Path(path) / CONFIG
    if not file.is_file():
        raise FileNotFoundError(f"{file}: expected the configuration of an adapter, got a directory without it")
    try:
        document = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:       # not JSON, not even text, or nested without end
        raise ValueError(f"{file}: expected JSON, got a file that is not JSON or was cut short ({error})") from error
    if not isinstance(document, dict):
        raise ValueError(f"{file}: expected a JSON object, got JSON of another kind: {str(document)[:40]}")
    if document.get("peft_type") != "LORA":
        raise ValueError(f"{file}: expected peft_type 'LORA', got {document.get('peft_type')!r}")
    for key, value in document.items():
        accepted = ACCEPTED.get(key, ())
        is_accepted = (accepted is None or value in accepted) if key in ACCEPTED else not value
        if not is_accepted:
            expected = f"to be {' or '.join(map(repr, accepted))}" if accepted else "not to be set"
            raise ValueError(f"{file}: expected {key} {expected}, got {value!r}: an adapter that computes otherwise")
    base = document.get("base_model_name_or_path")
    if not isinstance(base, str | None):
        raise ValueError(f"{file}: expected base_model_name_or_path to be a text, got {base!r}")
    try:
        settings = LoraSettings(document.get("r"), document.get("lora_alpha"), _targets(path))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return settings, base or None


def _targets(path):
    """The names of the linear layers that have a tensor, without their blocks, in their order."""
    with _open(path) as file:
        found = [_NAME.fullmatch(name) for name in file.keys()]         # noqa: SIM118, it is no dict
    return tuple(dict.fromkeys(match[1].rpartition(".")[2] for match in found if match))


def _expected(settings, config, path):
    """The `updates` that a model of this configuration has with these settings, which are of the adapter at `path`."""
    network = LlamaNetwork(config, backend=None, dtype=np.dtype("float32"))
    try:
        attach(network, settings)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return updates(network)


def _fill(model, arrays):
    for name, array in arrays.items():
        model.parameters[name][...] = model.backend.asarray(array.astype(model.dtype))


def _read_arrays(path, settings, config):
    """{name of a parameter: array} of an adapter: exactly those of a model with such settings and configuration."""
    shapes = {name: shape for update in _expected(settings, config, path) for name, shape in update.shapes.items()}
    with _open(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}   # noqa: SIM118, it is no dict
        problems = [f"{name}: expected no such tensor" for name in slices if name.removeprefix(PREFIX) not in shapes]
        for name, shape in shapes.items():
            tensor = slices.get(PREFIX + name)
            if tensor is None:
                problems.append(f"{PREFIX + name}: expected the shape {shape}, got no such tensor")
            elif tuple(tensor.get_shape()) != shape:
                problems.append(f"{PREFIX + name}: expected the shape {shape}, got {tuple(tensor.get_shape())}")
            elif tensor.get_dtype() not in READABLE:
                problems.append(f"{PREFIX + name}: expected one of {', '.join(READABLE)}, got {tensor.get_dtype()}")
        if problems:
            shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
            raise ValueError(f"{Path(path) / WEIGHTS}: expected an update of the same layers in every block of the "
                             f"model: {shown}")
        return {name: slices[PREFIX + name][:] for name in shapes}


def _open(path):
    file = Path(path) / WEIGHTS
    if not file.is_file():
        pickle = f"; {PICKLE} is a pickle, which could run any code" if (Path(path) / PICKLE).exists() else ""
        raise FileNotFoundError(f"{file}: expected the weights of an adapter, got a directory without them{pickle}")
    try:
        return safe_open(file, framework="numpy")
    except SafetensorError as error:
        raise ValueError(f"{file}: expected safetensors, got a file of another kind or one that was cut short "
                         f"({error})") from error

