"""Files of llama2.c, written once more: by the order in which its export.py goes through a model, list by list."""

import struct

import numpy as np

import tinyllama as tl

TINY = dict(vocab_size=13, hidden_size=24, intermediate_size=20, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=11)      # no two sizes alike
ATTENTION, MLP = "self_attn.{}_proj", "mlp.{}_proj"
GROUP = 8       # divides every matrix of TINY, but not the rows of down_proj: its groups go on in the next row


def random_weights(rng, *, is_tied=True, **sizes):
    """(config, {Hugging Face name: float32}): as a file has them, q and k interleaved."""
    config = tl.LlamaConfig(**TINY | sizes, tie_word_embeddings=is_tied, bos_token_id=1, eos_token_id=(1, 2))
    model = tl.Llama(config, backend="numpy")
    return config, {name: rng.normal(size=array.shape).astype("f4") for name, array in model.parameters.items()}


def layers(config, weights, name):
    return [weights[f"model.layers.{i}.{name}.weight"] for i in range(config.num_hidden_layers)]


def version_0(config, weights):
    def each(name):
        return layers(config, weights, name)

    is_tied = config.tie_word_embeddings
    table = np.zeros((config.max_position_embeddings, config.head_dim // 2), "f4")
    arrays = [weights["model.embed_tokens.weight"], *each("input_layernorm"),
              *(array for name in "qkvo" for array in each(ATTENTION.format(name))), *each("post_attention_layernorm"),
              *(array for name in ("gate", "down", "up") for array in each(MLP.format(name))),
              weights["model.norm.weight"], table, table, *([] if is_tied else [weights["lm_head.weight"]])]
    return struct.pack("<7i", *_sizes(config, 1 if is_tied else -1)) + b"".join(array.tobytes() for array in arrays)


def version_1(config, weights):
    header = struct.pack("<Ii7iB", 0x616B3432, 1, *_sizes(config), config.tie_word_embeddings)
    norms, matrices = _norms_and_matrices(config, weights)
    return header.ljust(256, b"\0") + b"".join(array.tobytes() for array in (*norms, *matrices))


def version_2(config, weights, group_size=GROUP):
    """(the bytes of the file, {name: the float32 that its numbers and scales stand for}), q and k interleaved."""
    header = struct.pack("<Ii7iBi", 0x616B3432, 2, *_sizes(config), config.tie_word_embeddings, group_size)
    norms, matrices = _norms_and_matrices(config, weights)
    parts, stored = [header.ljust(256, b"\0"), *(array.tobytes() for array in norms)], {}
    for array in matrices:
        groups = array.reshape(-1, group_size)
        scales = np.abs(groups).max(axis=1) / np.float32(127)
        numbers = np.round(groups / scales[:, None]).astype(np.int8)
        parts += [numbers.tobytes(), scales.tobytes()]
        stored[id(array)] = (numbers.astype("f4") * scales[:, None]).reshape(array.shape)
    return b"".join(parts), {name: stored.get(id(array), array) for name, array in weights.items()}


def _sizes(config, sign=1):
    return (config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.num_attention_heads,
            config.num_key_value_heads, sign * config.vocab_size, config.max_position_embeddings)


def _norms_and_matrices(config, weights):
    norms = [*layers(config, weights, "input_layernorm"), *layers(config, weights, "post_attention_layernorm"),
             weights["model.norm.weight"]]
    names = [*(ATTENTION.format(name) for name in "qkvo"), *(MLP.format(name) for name in ("gate", "down", "up"))]
    matrices = [weights["model.embed_tokens.weight"], *(array for name in names
                                                        for array in layers(config, weights, name))]
    return norms, matrices + ([] if config.tie_word_embeddings else [weights["lm_head.weight"]])
