"""GGUF, the files of llama.cpp: one file that holds the configuration, the tokenizer and the weights, often quantised.

Read only. What comes before the data is in gguf_header.py, what the metadata mean in gguf_config.py, and how the data
are held in gguf_blocks.py; here the tensors get the names and the order of rows of Hugging Face.
"""

import itertools
import re

import numpy as np

from tinyllama.formats.checkpoint import Checkpoint, SomeRows
from tinyllama.formats.gguf_blocks import KINDS, OTHER_KINDS, to_floats, to_quantized_weight
from tinyllama.formats.gguf_config import ARCHITECTURES, ROTATION_FACTORS, Settings, read_config, require
from tinyllama.formats.rotary_pairing import is_rotated, to_half_split
from tinyllama.gguf_header import read_header

NAME = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)")
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
INNER = {                       # of a block
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}


class BlockTensor:
    """A tensor within the mapped file. Its rows become floats when somebody asks for them."""

    def __init__(self, kind, shape, data):
        self.shape, self.kind = shape, kind.name
        self._kind, self._data = kind, data             # (rows, bytes of a row) uint8; a vector is one row

    def read(self, rows=slice(None)):
        """Some rows, as an array of float32."""
        if len(self.shape) == 1:
            return to_floats(self._kind, self._data)[0][rows]
        return to_floats(self._kind, self._data[rows])

    def quantized(self):
        """All rows as a `QuantizedWeight`; None where the file holds floating point, or a vector."""
        return to_quantized_weight(self._kind, self._data) if len(self.shape) == 2 else None


def read_checkpoint(path):
    """The `Checkpoint` in a GGUF file of the architecture llama, qwen2, qwen3 or phi3.

    The file is mapped; its weights are read when somebody asks for rows. q and k of llama are put into the half-split
    pairing. The head is tied to the embedding where the file has none.

    Raises FileNotFoundError where nothing is. Raises ValueError, naming the file, what was expected and what came, for
    whatever `read_header` refuses, for another architecture, another way of holding a tensor, a setting that would
    change the numbers, data that are not within the file or overlap, and sizes that do not fit to the tensors.
    """
    header = read_header(path)
    try:
        settings = Settings(header.metadata)
        tensors = _tensors(header)
        factors = tensors.pop(ROTATION_FACTORS, None)
        config = read_config(settings, {name: tensor.shape for name, tensor in tensors.items()}, factors)
        return Checkpoint(header.path, config, _as_hugging_face(tensors, config, settings.architecture))
    except ValueError as error:
        raise ValueError(f"{header.path}: {error}") from error


def _tensors(header):
    """{GGUF's name: a `BlockTensor`}, once it is certain that the data of all are within the file and apart."""
    tensors, spans = {}, []
    for name, shape, number, offset in header.tensors:
        require(number in KINDS, name, f"a tensor of the kind {', '.join(kind.name for kind in KINDS.values())}",
                OTHER_KINDS.get(number, number))
        kind = KINDS[number]
        require(len(shape) <= 2, name, "one or two dimensions", f"the shape {shape}")
        require(shape[-1] % kind.block == 0, name, f"rows of a multiple of {kind.block} columns, for {kind.name}",
                shape[-1])
        require(offset % header.alignment == 0, name, f"an offset that is a multiple of {header.alignment}", offset)
        rows, row_bytes = shape[0] if len(shape) == 2 else 1, shape[-1] // kind.block * kind.size
        start = header.data_start + offset
        end = start + rows * row_bytes
        require(end <= len(header.file), name, f"its data at the bytes {start} to {end}",
                f"a file of {len(header.file)} bytes: it is cut short or damaged")
        spans.append((start, end, name))
        tensors[name] = BlockTensor(kind, shape, header.file[start:end].reshape(rows, row_bytes))
    for (_, end, name), (start, _, following) in itertools.pairwise(sorted(spans)):
        require(end <= start, following, f"its data to begin after those of {name}, at byte {end}", start)
    return tensors


def _as_hugging_face(tensors, config, architecture):
    """{Hugging Face's name: tensor}: fused ones split, q and k in the half-split pairing."""
    named = {}
    for name, tensor in tensors.items():
        parts = _split(name, tensor, config) if ARCHITECTURES[architecture].is_fused else {name: tensor}
        named |= {_hugging_face_name(part): rows for part, rows in parts.items()}
    if ARCHITECTURES[architecture].is_interleaved:
        named = {name: _in_half_split(name, tensor, config.head_dim) for name, tensor in named.items()}
    return named


def _hugging_face_name(name):
    """Hugging Face's name of a tensor. An unknown one keeps its name, and is refused as one that no model has."""
    match = NAME.fullmatch(name)
    if match is None:
        return name
    block, layer, what = match.groups()
    if block is None:
        return f"{OUTER[layer]}.{what}" if layer in OUTER else name
    return f"model.layers.{block}.{INNER[layer]}.{what}" if layer in INNER else name


def _split(name, tensor, config):
    """The parts of a fused tensor, {name: rows}; of another, itself."""
    query, key = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    if ".attn_qkv." in name:
        fused, parts = "attn_qkv", {"attn_q": query, "attn_k": key, "attn_v": key}
    elif ".ffn_up." in name:
        fused, parts = "ffn_up", {"ffn_gate": config.intermediate_size, "ffn_up": config.intermediate_size}
    else:
        return {name: tensor}
    require(tensor.shape[0] == sum(parts.values()), name, f"{sum(parts.values())} rows", tensor.shape[0])
    ends = np.cumsum(list(parts.values())).tolist()
    return {name.replace(fused, part): SomeRows(tensor, range(end - rows, end))
            for (part, rows), end in zip(parts.items(), ends, strict=True)}


def _in_half_split(name, tensor, head_dim):
    if not is_rotated(name):
        return tensor
    require(tensor.shape[0] % head_dim == 0, name, f"whole heads of {head_dim} rows", tensor.shape[0])
    return SomeRows(tensor, to_half_split(tensor.shape[0], head_dim))
