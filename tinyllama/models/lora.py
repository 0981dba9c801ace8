"""Fine-tuning with LoRA: a model whose weights stay as they are, beside which thin matrices learn."""

import math
import numbers
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from tinyllama.models.network import LlamaNetwork
from tinyllama.nn import Linear, Parameters
from tinyllama.nn.lora import LoraLinear

ALL_LINEAR = "all-linear"       # PEFT's word for every linear layer but the head
HEAD = "lm_head"
STREAM = 0x6C6F7261             # "lora" in ASCII: A must not begin with the numbers that drew the weights


@dataclass(frozen=True)
class LoraSettings:
    """Which linear layers get a low-rank update, of which rank, and how much it counts.

    The update of a weight W (O, I) is alpha / rank · B @ A, with A (rank, I) and B (O, rank); see `LowRankUpdate` in
    nn/lora.py. rank: at least 1. alpha: above 0; the division lets the learning rate stay when the rank changes.
    target_modules: names of linear layers, such as q_proj, v_proj or lm_head, in all blocks; or "all-linear" for all
    but the head. seed: from which A is drawn.

    Raises TypeError or ValueError naming the setting. Whether a model has such layers is found out when it is made.
    """

    rank: int = 8
    alpha: float = 16.0
    target_modules: tuple | str = ("q_proj", "v_proj")
    seed: int = 0

    def __post_init__(self):
        for name, least in (("rank", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")
        if not isinstance(self.alpha, numbers.Real) or isinstance(self.alpha, bool) or not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha: expected a number above 0, got {self.alpha!r}")
        targets = self.target_modules
        if targets == ALL_LINEAR:
            return
        is_list = isinstance(targets, Collection) and not isinstance(targets, str | bytes)
        if not is_list or not all(isinstance(name, str) for name in targets):
            raise TypeError(f"target_modules: expected a list of names, or {ALL_LINEAR!r}, got {targets!r}")
        object.__setattr__(self, "target_modules", tuple(dict.fromkeys(targets)))
        if not self.target_modules:
            raise ValueError("target_modules: expected at least one name, got none")

    @property
    def scale(self):
        """alpha / rank."""
        return float(self.alpha / self.rank)


def attach(network, settings):
    """Put a `LoraLinear` in the place of every linear layer of a network that is a target.

    Raises ValueError for a target that the network does not have, and for a rank beyond the smaller side of a target,
    where the update would be larger than the matrix and no more general. A head that shares its weights with the
    embedding is none of its linear layers: an update of one would be an update of both.
    """
    linears = [(layer, attribute, linear) for layer in _layers(network) for attribute, linear in vars(layer).items()
               if isinstance(linear, Linear)]
    names = {_last(name) for *_, linear in linears for name in _parts(linear)} - {"embed_tokens"}
    targets = names - {HEAD} if settings.target_modules == ALL_LINEAR else set(settings.target_modules)
    if unknown := sorted(targets - names):
        why = "; the head shares its weights with the embedding here" if HEAD in unknown else ""
        raise ValueError(f"target_modules: expected names among {', '.join(sorted(names))}, or {ALL_LINEAR!r}, "
                         f"got {', '.join(unknown)}{why}")
    for layer, attribute, linear in linears:
        hit = [name for name in _parts(linear) if _last(name) in targets]
        for name in hit:
            shape = (_parts(linear)[name], linear.shape[1])
            if settings.rank > min(shape):
                raise ValueError(f"rank: expected at most {min(shape)}, the smaller side of {name}.weight {shape}, "
                                 f"got {settings.rank}")
        if hit:
            setattr(layer, attribute, LoraLinear(linear, hit, rank=settings.rank, scale=settings.scale))


def updates(network):
    """Every `LowRankUpdate` of a network, one for each weight, however many blocks share it."""
    found = [update for layer in _layers(network) if isinstance(layer, LoraLinear) for update in layer.updates()]
    return list({update.name: update for update in found}.values())


def trainable_size(config, settings):
    """How many numbers a model of a configuration trains: with `settings` those of its updates, with None all."""
    network = LlamaNetwork(config, backend=None, dtype=np.dtype("float32"))
    if settings is not None:
        attach(network, settings)
        return sum(math.prod(shape) for update in updates(network) for shape in update.shapes.values())
    return sum({d.name: math.prod(d.shape) for d in network.declarations()}.values())


def draw_first(model, seed):
    """Draw A of every update: normal, of variance 1/(3 I), that of PEFT's uniform numbers, for whom rates are known."""
    rng = np.random.default_rng([seed, STREAM])
    for update in updates(model):
        shape = update.shapes[update.a]                                     # (r, I)
        values = rng.normal(0.0, 1 / math.sqrt(3 * shape[1]), shape).astype(model.dtype)
        model.parameters[update.a][...] = model.backend.asarray(values)


def add_lora(model, settings):
    """A new model with the weights of `model`, frozen, and updates that change nothing yet, which alone are trained.

    `model` stays as it is; `tl.load(path, lora=settings)` needs the memory of the weights only once. Raises TypeError
    where `model` has no floating-point weights of its own, ValueError where it has updates already, or not the layers
    that the settings name.
    """
    if not isinstance(getattr(model, "parameters", None), Parameters):
        raise TypeError(f"model: expected a Llama with floating-point weights, got {type(model).__name__}")
    require_merged(model)
    adapted = type(model)(model.config, model.backend, model.dtype, seed=None, workers=model.workers, lora=settings)
    for name, weight in model.parameters.items():
        adapted.parameters[name][...] = weight
    return adapted


def merge_lora(model):
    """A new model without updates that computes the same up to rounding: each weight with its update added.

        W + alpha / rank · B @ A

    It is as fast as any, and can be trained, saved and quantised like any other; `model` stays as it is. Raises
    ValueError where `model` has no updates.
    """
    if getattr(model, "lora", None) is None:
        raise ValueError("model: expected one with LoRA's updates, got one without")
    merged = type(model)(model.config, model.backend, model.dtype, seed=None, workers=model.workers)
    for name, weight in merged.parameters.items():
        weight[...] = model.parameters[name]
    for update in updates(model):
        merged.parameters[update.weight][...] += update.matrix()            # (O, I)
    return merged


def require_merged(model):
    """Raise ValueError where a model has updates, for what knows nothing of them and would leave them out."""
    if getattr(model, "lora", None) is not None:
        raise ValueError("model: expected one without LoRA's updates, got one with them; tl.merge_lora adds them to "
                         "the weights, tl.save_adapter writes them alone")


def _layers(layer):
    """A layer and all inside it."""
    yield layer
    for child in layer.children():
        yield from _layers(child)


def _parts(linear):
    """{name: rows} of a linear layer's parts; itself, where it has none."""
    return linear.parts or {linear.weight.removesuffix(".weight"): linear.shape[0]}


def _last(name):
    return name.rpartition(".")[2]
