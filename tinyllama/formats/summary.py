"""What a model is and what it will cost, found out from headers alone: the weights stay where they are."""

import collections
import dataclasses
import math
from pathlib import Path

import numpy as np

from tinyllama.backends.threads import choose_workers
from tinyllama.formats.conversion import tokenizer_of
from tinyllama.formats.gguf_blocks import KINDS, to_quantized_weight
from tinyllama.formats.llama2c import GROUPED
from tinyllama.formats.loading import read_checkpoint
from tinyllama.models.memory import activation_bytes, kv_cache_bytes
from tinyllama.models.quantization import GROUP_SIZE

FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
BLOCKS = {kind.name: kind for kind in KINDS.values()}
ITEM = 4            # bytes of a float32, in which models compute here
EXAMPLE = "Once upon a time"
PARTS = ("input_layernorm", "q_proj", "k_proj", "v_proj", "q_norm", "k_norm", "o_proj", "post_attention_layernorm",
         "gate_proj", "up_proj", "down_proj", "norm", "lm_head")
RUN = "run.json"    # what `tinyllama train` writes first into the directory of a run


def summarize(path, *, context=None, batch_size=1):
    """A dictionary for JSON with what is known of the model at `path`.

        "path", "format", "is_run", "architecture"      {name of a `LlamaConfig` field: value}
        "parameters"    [{"name", "shape", "kind", "bytes"}, ...]: as in the file, in the order of the model
        "totals"        "parameters", "bytes", "kinds": {kind: parameters}
        "memory"        "context", "batch_size", "training": {...}, "decoding": [{...}, ...], in bytes
        "tokenizer"     {...}, or {"missing": why}

    context: tokens of a row that memory is counted for; None is the context of the model. Raises as `load` does, and
    ValueError for a context or batch that cannot be.
    """
    checkpoint = read_checkpoint(path)
    config = checkpoint.config
    context = config.max_position_embeddings if context is None else context
    if not 1 <= context <= config.max_position_embeddings:
        raise ValueError(f"context: expected 1 to {config.max_position_embeddings}, as the model has, got {context}")
    if batch_size < 1:
        raise ValueError(f"batch: expected at least 1, got {batch_size}")
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items()
               if not (config.tie_word_embeddings and name == "lm_head.weight")}        # which says nothing new
    kinds = collections.Counter()
    for tensor in tensors.values():
        kinds[tensor.kind] += math.prod(tensor.shape)
    parameters = [{"name": name, "shape": list(tensor.shape), "kind": tensor.kind, "bytes": file_bytes(tensor)}
                  for name, tensor in sorted(tensors.items(), key=lambda item: _place(item[0]))]
    return {
        "path": str(path), "format": _format(Path(path)), "is_run": (Path(path) / RUN).is_file(),
        "architecture": {key: list(value) if isinstance(value, tuple) else value
                         for key, value in dataclasses.asdict(config).items()},
        "parameters": parameters,
        "totals": {"parameters": kinds.total(), "bytes": sum(row["bytes"] for row in parameters),
                   "kinds": dict(kinds.most_common())},
        "memory": {"context": context, "batch_size": batch_size,
                   "training": _training(config, tensors, batch_size, context),
                   "decoding": _decoding(config, tensors, batch_size, context)},
        "tokenizer": _tokenizer(path),
    }


def _format(path):
    if path.is_dir():
        return "directory"
    with open(path, "rb") as file:
        return "GGUF" if file.read(4) == b"GGUF" else "llama2.c"


def _place(name):
    """The embedding first, then the layers by their numbers, each in the order of the pass, then norm and head."""
    parts = name.split(".")
    layer = int(parts[2]) if parts[1] == "layers" else -1 if "embed" in name else math.inf
    return layer, next((i for i, part in enumerate(PARTS) if part in parts), len(PARTS)), parts[-1] == "bias"


# ---- bytes

def file_bytes(tensor):
    """What a tensor takes in its file."""
    size = math.prod(tensor.shape)
    if tensor.kind in FLOAT_BYTES:
        return size * FLOAT_BYTES[tensor.kind]
    if tensor.kind.startswith(GROUPED):
        return size + 4 * size // int(tensor.kind.removeprefix(GROUPED))
    return size // BLOCKS[tensor.kind].block * BLOCKS[tensor.kind].size


def held_bytes(tensor, quantization):
    """What a tensor takes in memory, loaded with this `quantization`: norms and biases are float32 in any case."""
    size, rows = math.prod(tensor.shape), tensor.shape[0]
    if quantization is None or len(tensor.shape) == 1:
        return size * ITEM
    if quantization == "int8":
        return size + rows * ITEM
    if quantization == "int4":
        return size // 2 + 2 * ITEM * size // GROUP_SIZE
    if tensor.kind in FLOAT_BYTES:
        return size * ITEM
    if tensor.kind.startswith(GROUPED):
        width = math.gcd(int(tensor.kind.removeprefix(GROUPED)), tensor.shape[1])
        return size + ITEM * size // width
    kind = BLOCKS[tensor.kind]
    row = np.zeros((1, tensor.shape[1] // kind.block * kind.size), np.uint8)
    return rows * to_quantized_weight(kind, row).nbytes


def _training(config, tensors, batch_size, context):
    """Full training with AdamW in float32, one gradient for each worker."""
    weights = sum(held_bytes(tensor, None) for tensor in tensors.values())
    workers = choose_workers(batch_size, weights)
    parts = {"weights": weights, "gradients": workers * weights, "moments": 2 * weights,
             "activations": activation_bytes(config, batch_size, context, workers=workers)}
    return {"workers": workers, **parts, "total": sum(parts.values())}


def _decoding(config, tensors, batch_size, context):
    """Writing text, with each way to hold the weights that this model has."""
    cache, rows = kv_cache_bytes(config, batch_size, context), []
    ways = {"float32": None, "int8": "int8", "int4": "int4", "stored": "stored"}
    widths = [tensor.shape[1] for tensor in tensors.values() if len(tensor.shape) == 2]
    if any(width % GROUP_SIZE for width in widths):
        del ways["int4"]
    if all(tensor.kind in FLOAT_BYTES for tensor in tensors.values()):
        del ways["stored"]
    for name, quantization in ways.items():
        weights = sum(held_bytes(tensor, quantization) for tensor in tensors.values())
        rows.append({"held_as": name, "weights": weights, "kv_cache": cache, "total": weights + cache})
    return rows


# ---- the tokenizer

def _tokenizer(path):
    tokenizer, problem = tokenizer_of(Path(path))
    if tokenizer is None:
        return {"missing": problem}
    facts = {"kind": type(tokenizer).__name__, "vocab_size": tokenizer.vocab_size, "merges": len(tokenizer.merges),
             "special_tokens": tokenizer.special_tokens, "bos_token_id": tokenizer.bos_token_id,
             "eos_token_id": tokenizer.eos_token_id}
    try:
        ids = tokenizer.encode(EXAMPLE)
    except ValueError:          # a vocabulary without some of these characters
        return facts | {"example": None}
    pieces = [tokenizer.token_bytes(token).decode("utf-8", "replace") for token in ids]
    return facts | {"example": {"text": EXAMPLE, "ids": ids, "pieces": pieces}}
