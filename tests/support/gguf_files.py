"""Small GGUF files, written with the library `gguf` out of our own models."""

import gguf
import numpy as np

KINDS = gguf.GGMLQuantizationType
SUFFIXES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    """model.layers.3.mlp.up_proj.weight -> blk.3.ffn_up.weight"""
    layer, _, what = name.rpartition(".")
    if not layer.startswith("model.layers."):
        return f"{SUFFIXES[layer]}.{what}"
    _, _, number, inner = layer.split(".", 3)
    return f"blk.{number}.{SUFFIXES[inner]}.{what}"


def interleave(array, heads):
    """The rows of each head as Meta has them, as llama.cpp's converter puts them: 0, D/2, 1, D/2 + 1, ..."""
    halves = array.reshape(heads, 2, len(array) // heads // 2, *array.shape[1:])        # (H, 2, D/2, ...)
    return np.swapaxes(halves, 1, 2).reshape(array.shape)


def tensors_of(model, architecture="llama"):
    """{GGUF's name: array} of our model: what a converter writes."""
    config, tensors = model.config, {}
    for name, parameter in model.parameters.items():
        array = np.ascontiguousarray(model.backend.to_numpy(parameter)).astype(np.float32)
        if architecture == "llama" and ".q_proj." in name:
            array = interleave(array, config.num_attention_heads)
        if architecture == "llama" and ".k_proj." in name:
            array = interleave(array, config.num_key_value_heads)
        tensors[gguf_name(name)] = array
    if architecture == "phi3":
        for block in range(config.num_hidden_layers):
            for fused, parts in (("attn_qkv", ("attn_q", "attn_k", "attn_v")), ("ffn_up", ("ffn_gate", "ffn_up"))):
                rows = np.concatenate([tensors.pop(f"blk.{block}.{part}.weight") for part in parts])
                tensors[f"blk.{block}.{fused}.weight"] = rows
    return tensors


def metadata_of(config, architecture="llama"):
    """{key: value} as a converter writes them."""
    own = {
        "vocab_size": config.vocab_size, "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size, "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size, "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads, "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim, "rope.dimension_count": config.head_dim,
        "rope.freq_base": float(config.rope_theta), "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
    }
    if config.sliding_window:
        own["attention.sliding_window"] = config.sliding_window
    tokens = {f"tokenizer.ggml.{name}_token_id": token for name, token in
              (("bos", config.bos_token_id), ("eos", config.eos_token_id)) if token is not None}
    return {"general.name": "small", **{f"{architecture}.{key}": value for key, value in own.items()}, **tokens}


def write(path, metadata, tensors, *, architecture="llama", kind="F32", alignment=None):
    """Write a file. tensors: arrays of float32, held as `kind` where they are matrices, or (kind, bytes)."""
    writer = gguf.GGUFWriter(path, architecture)
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string,
           list: writer.add_array}
    for key, value in metadata.items():
        add[type(value)](key, value)
    for name, tensor in tensors.items():
        held, data = tensor if isinstance(tensor, tuple) else (kind if tensor.ndim == 2 else "F32", tensor)
        if not isinstance(tensor, tuple):
            data = gguf.quants.quantize(np.ascontiguousarray(data), KINDS[held])
        writer.add_tensor(name, data, raw_dtype=KINDS[held])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_model(path, model, architecture="llama", kind="F32", **extra):
    """Write our model; extra metadata come by their whole names."""
    return write(path, metadata_of(model.config, architecture) | extra, tensors_of(model, architecture),
                 architecture=architecture, kind=kind)
