"""Small checkpoints of every family, as Hugging Face has them, without Hugging Face: configuration, names and bits.

families.json beside the golden files holds what config.json says in each case and the shapes of its tensors, both as
transformers wrote them. The numbers are drawn from the case and the name of the tensor. No two sizes are equal where a
transposed array could pass, norms are not 1 and biases not 0, and the windows are shorter than the batch.
"""

import json
from pathlib import Path

import llama_cases
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

import tinyllama as tl

DESCRIPTIONS = Path(__file__).parents[1] / "golden" / "families.json"
GOLDEN = DESCRIPTIONS.with_name("families.npz")
DTYPES = {"float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

SIZES = dict(vocab_size=31, hidden_size=24, intermediate_size=26, num_hidden_layers=2, num_attention_heads=6,
             num_key_value_heads=2, max_position_embeddings=40, bos_token_id=1, eos_token_id=2, pad_token_id=None)
# case: (model_type, what is particular to its configuration)
CASES = {
    "llama": ("llama", dict(rms_norm_eps=1e-5)),
    "llama 3.1": ("llama", dict(head_dim=8, rope_parameters=dict(llama_cases.LLAMA3, rope_theta=500000.0),
                                max_position_embeddings=500, eos_token_id=[2, 5], tie_word_embeddings=True)),
    "llama with biases": ("llama", dict(attention_bias=True, mlp_bias=True, num_key_value_heads=3)),
    "smollm2": ("llama", dict(tie_word_embeddings=True, num_key_value_heads=1, rope_theta=100000.0)),
    "mistral": ("mistral", dict(sliding_window=4, head_dim=6, rms_norm_eps=1e-5)),
    "mistral without a window": ("mistral", dict(sliding_window=None, rope_theta=1000000.0, num_attention_heads=5,
                                                 num_key_value_heads=1, head_dim=10)),
    "qwen2": ("qwen2", dict(rope_theta=1000000.0, tie_word_embeddings=True)),
    "qwen2 with a window": ("qwen2", dict(use_sliding_window=True, sliding_window=3, max_window_layers=0,
                                          num_key_value_heads=3)),
    "qwen3": ("qwen3", dict(head_dim=10, rope_theta=1000000.0)),
    "qwen3 with biases": ("qwen3", dict(head_dim=6, attention_bias=True, tie_word_embeddings=True,
                                        use_sliding_window=True, sliding_window=5, max_window_layers=0)),
    "phi3": ("phi3", dict(sliding_window=5, num_key_value_heads=3)),
    "phi3 without a window": ("phi3", dict(rope_theta=700.0, rms_norm_eps=1e-6)),
}


def description(case):
    """{"config": the contents of config.json, "shapes": {tensor: shape}}."""
    return json.loads(DESCRIPTIONS.read_text(encoding="utf-8"))[case]


def tensors(case, dtype="float64"):
    """{name: array} of a case, as its files hold them. float16 and bfloat16 are the float64 ones, rounded."""
    return {name: weights(case, name, shape).astype(DTYPES[dtype])
            for name, shape in description(case)["shapes"].items()}


def weights(case, name, shape):
    """The float64 numbers of one tensor: around 1 for norms, around 0 for all others."""
    center, spread = (1.0, 0.5) if "norm" in name else (0.0, 1.0) if "embed" in name else (0.0, 0.4)
    return center + spread * llama_cases.between_minus_one_and_one(f"{case}/{name}", tuple(shape))


def write(case, directory, dtype="float64", *, shards=3, **changes):
    """A directory as Hugging Face has it, in several files; `changes` to config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    settings = description(case)["config"] | {"dtype": dtype} | changes
    (directory / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    arrays, weight_map = tensors(case, dtype), {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        names = list(arrays)[i::shards]
        save_file({name: arrays[name] for name in names}, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": sum(array.nbytes for array in arrays.values())}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return directory


def batch(case):
    """ids, targets: (3, 11) each. Half of the vocabulary, so that tokens repeat; a quarter of the targets is -100."""
    half = SIZES["vocab_size"] // 2
    ids, targets = (np.int64(half * (1 + llama_cases.between_minus_one_and_one(f"{case}/{name}", (3, 11))) / 2)
                    for name in ("ids", "targets"))
    targets.ravel()[1::4] = -100
    return ids, targets


def run(model, case):
    """{"logits", "loss", parameter name: gradient} of our model, as NumPy arrays."""
    ids, targets = batch(case)
    loss, gradients = model.loss_and_grads(ids, targets)
    results = {"logits": model.logits(ids), "loss": loss, **gradients}
    return {name: model.backend.to_numpy(value) for name, value in results.items()}


def summary(case, results):
    """What the golden file keeps of results: logits and loss, and of each gradient three numbers.

    They are its norm and its products with two arrays of random numbers, all over the root of its size: every element
    is in them with a weight of its own.
    """
    kept = {}
    for name, array in results.items():
        if name not in ("logits", "loss"):
            draws = [llama_cases.between_minus_one_and_one(f"{case}/{name}/{i}", array.shape) for i in range(2)]
            products = [np.linalg.norm(array), *(np.sum(draw * array) for draw in draws)]
            array = np.array(products) / np.sqrt(array.size)
        kept[name] = np.asarray(array)
    return kept


def split_fused(arrays, config):
    """Arrays by Phi-3's names (weights or gradients) under the names of their parts, which all models here have."""
    split = {}
    for name, array in arrays.items():
        if ".qkv_proj." in name:
            q, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
            for part, rows in zip("qkv", np.split(array, [q, q + kv]), strict=True):
                split[name.replace("qkv_proj", f"{part}_proj")] = rows
        elif ".gate_up_proj." in name:
            for part, rows in zip(("gate", "up"), np.split(array, 2), strict=True):
                split[name.replace("gate_up_proj", f"{part}_proj")] = rows
        else:
            split[name] = array
    return split


def load(case, directory, dtype="float64", backend="numpy", **changes):
    """Our model of a case, from files that hold float64."""
    return tl.load(write(case, directory, **changes), dtype=dtype, backend=backend)
