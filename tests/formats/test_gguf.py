"""GGUF files: the same model as the one they were made from, and as transformers reads them."""

import llama_cases as cases
import numpy as np
import pytest

import tinyllama as tl
from tinyllama.formats import gguf as reader
from tinyllama.formats.gguf_config import LLAMA3
from tinyllama.ops.rope import rope_frequencies

pytest.importorskip("gguf", reason="gguf is not installed, so nothing can write the files to be read.")

import gguf
import gguf_files as files

SIZES = dict(vocab_size=37, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=40, rms_norm_eps=1e-5)
FAMILIES = {                    # name: architecture, configuration
    "qwen2": ("qwen2", dict(attention_bias=True, attention_output_bias=False, tie_word_embeddings=True,
                            rope_theta=1e6)),
    "qwen3": ("qwen3", dict(qk_norm=True, head_dim=24, eos_token_id=5)),
    "phi3": ("phi3", dict(sliding_window=7, bos_token_id=1, head_dim=10)),
    "mistral": ("llama", dict(sliding_window=5, head_dim=24)),
}
IDS = np.array([[3, 1, 3, 7, 30, 2, 2, 9, 14, 11], [5, 0, 36, 8, 8, 1, 20, 21, 4, 4]])
FLOATS_AND_BLOCKS = ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]     # which the library can write


def make(dtype="float32", **settings):
    """A model with no parameter at the value that it usually begins with."""
    model = tl.Llama(tl.LlamaConfig(**SIZES | settings), backend="numpy", dtype=dtype)
    rng = np.random.default_rng(7)
    for name, parameter in model.parameters.items():
        parameter[...] = rng.normal(1 if "norm" in name else 0, 0.3, size=parameter.shape)
    return model


def assert_same(one, other):
    assert one.config == other.config
    assert set(one.parameters) == set(other.parameters)
    for name in one.parameters:
        np.testing.assert_array_equal(one.parameters[name], other.parameters[name], err_msg=name)


def rotation(config):
    """What a converter writes of a scaled rotation: metadata and tensors."""
    scaling = config.rope_scaling
    if scaling is None:
        return {}, {}
    if scaling["rope_type"] == "linear":
        return {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": scaling["factor"]}, {}
    plain, scaled = (np.array(rope_frequencies(config.head_dim, theta=config.rope_theta, scaling=kind))
                     for kind in (None, scaling))
    return ({"llama.rope.scaling.original_context_length": scaling["original_max_position_embeddings"]},
            {"rope_freqs.weight": (plain / scaled).astype(np.float32)})


def written(path, model, architecture="llama", **settings):
    """The file of a model, its rotation included."""
    metadata, tensors = rotation(model.config)
    return files.write(path, files.metadata_of(model.config, architecture) | metadata,
                       files.tensors_of(model, architecture) | tensors, architecture=architecture, **settings)


# ---- the same model

@pytest.mark.parametrize("case", cases.CASES)
def test_a_llama_is_the_one_it_was_made_from(tmp_path, case):
    model = cases.ours(case, "float32")
    tl.save(model, tmp_path / "directory")
    directory = tl.load(tmp_path / "directory", backend="numpy")
    loaded = tl.load(written(tmp_path / "model.gguf", model), backend="numpy")
    assert_same(loaded, model)
    ids, _ = cases.batch(case)
    np.testing.assert_array_equal(loaded.logits(ids), directory.logits(ids))


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_are_the_ones_they_were_made_from(tmp_path, family):
    architecture, settings = FAMILIES[family]
    model = make(**settings)
    loaded = tl.load(written(tmp_path / "model.gguf", model, architecture), backend="numpy")
    assert_same(loaded, model)
    np.testing.assert_array_equal(loaded.logits(IDS), model.logits(IDS))


def test_the_path_may_be_a_string_and_the_settings_are_handed_on(tmp_path):
    path = str(written(tmp_path / "model.gguf", make()))
    model = tl.load(path, dtype="float64", frozen=["model.norm.*"], workers=2)
    assert (model.dtype, model.frozen, model.workers) == (np.dtype("float64"), ("model.norm.*",), 2)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("kind", FLOATS_AND_BLOCKS)
def test_every_kind_of_matrix(tmp_path, kind, architecture):
    model = make(attention_bias=architecture == "qwen2", attention_output_bias=False)
    path = written(tmp_path / "model.gguf", model, architecture, kind=kind)
    for parameter in model.parameters.values():
        if parameter.ndim == 2:         # blocks are along a row, so that the order of the rows is no matter
            blocks = gguf.quants.quantize(np.ascontiguousarray(parameter), files.KINDS[kind])
            parameter[...] = gguf.quants.dequantize(blocks, files.KINDS[kind])
    loaded = tl.load(path, backend="numpy")
    assert_same(loaded, model)
    assert reader.read_checkpoint(path).tensors["model.layers.0.self_attn.q_proj.weight"].kind == kind


def test_rows_are_read_as_they_are_asked_for(tmp_path):
    model = make()
    tensors = reader.read_checkpoint(written(tmp_path / "model.gguf", model, kind="Q4_1")).tensors
    for name in ("model.embed_tokens.weight", "model.layers.1.self_attn.k_proj.weight", "model.norm.weight"):
        tensor = tensors[name]
        assert tensor.shape == model.parameters[name].shape
        whole = tensor.read()
        np.testing.assert_array_equal(tensor.read(slice(5, 9)), whole[5:9])
        np.testing.assert_array_equal(tensor.read(np.array([7, 0, 7])), whole[[7, 0, 7]])
        assert tensor.read(slice(5, 9)).shape == (4, *tensor.shape[1:])


def test_a_head_of_its_own_and_a_tied_one(tmp_path):
    for tied in (True, False):
        path = written(tmp_path / "model.gguf", make(tie_word_embeddings=tied))
        assert tl.load(path).config.tie_word_embeddings is tied


def test_the_end_of_a_turn_ends_a_text_too(tmp_path):
    model = make(eos_token_id=4)
    path = files.write_model(tmp_path / "model.gguf", model, **{"tokenizer.ggml.eot_token_id": 6})
    assert tl.load(path).config.eos_token_id == (4, 6)
    path = files.write_model(tmp_path / "model.gguf", model, **{"tokenizer.ggml.eot_token_id": 4})
    assert tl.load(path).config.eos_token_id == 4


def test_metadata_of_llama_3_without_its_context(tmp_path):
    model = make(rope_scaling=LLAMA3 | {"factor": 32.0}, rope_theta=500000.0, max_position_embeddings=131072)
    metadata, factors = files.metadata_of(model.config), rotation(model.config)[1]
    path = files.write(tmp_path / "model.gguf", metadata, files.tensors_of(model) | factors)
    assert_same(tl.load(path, backend="numpy"), model)
    ones = {"rope_freqs.weight": np.ones(8, dtype=np.float32)}
    path = files.write(tmp_path / "model.gguf", metadata, files.tensors_of(model) | ones)
    assert tl.load(path).config.rope_scaling is None


@pytest.mark.parametrize(("metadata", "factor"), [
    ({"rope.scaling.factor": 2.5}, 2.5), ({"rope.scale_linear": 2.5}, 2.5), ({"rope.scaling.type": "linear"}, None),
    ({"rope.scaling.type": "none", "rope.scaling.factor": 2.5}, None), ({"rope.scaling.factor": 1.0}, None),
    ({"rope.scaling.type": "linear", "rope.scaling.factor": 2.5, "rope.scale_linear": 3.0}, 2.5)])
def test_the_spellings_of_a_linear_rotation(tmp_path, metadata, factor):
    metadata = {f"llama.{key}": value for key, value in metadata.items()}
    path = files.write_model(tmp_path / "model.gguf", make(), **metadata)
    expected = None if factor is None else {"rope_type": "linear", "factor": factor}
    assert reader.read_checkpoint(path).config.rope_scaling == expected


# ---- what would be wrong

def test_a_pairing_that_is_not_permuted_is_noticed(tmp_path, monkeypatch):
    model = make()
    path = written(tmp_path / "model.gguf", model)
    monkeypatch.setattr(reader, "_in_half_split", lambda name, tensor, head_dim: tensor)
    assert np.abs(tl.load(path, backend="numpy").logits(IDS) - model.logits(IDS)).max() > 0.1


def test_qwen_permuted_like_llama_is_noticed(tmp_path, monkeypatch):
    model = make(qk_norm=True)
    path = written(tmp_path / "model.gguf", model, "qwen3")
    monkeypatch.setitem(reader.ARCHITECTURES, "qwen3",
                        reader.ARCHITECTURES["qwen3"]._replace(is_interleaved=True))
    assert np.abs(tl.load(path, backend="numpy").logits(IDS) - model.logits(IDS)).max() > 0.1


# ---- quantised

@pytest.mark.parametrize("kind", [kind for kind in FLOATS_AND_BLOCKS if kind.startswith("Q")])
def test_a_stored_model_gives_the_logits_of_its_floats(tmp_path, backend, kind):
    path = written(tmp_path / "model.gguf", make(), kind=kind)
    floats, stored = tl.load(path, backend=backend), tl.load(path, backend=backend, quantization="stored")
    np.testing.assert_allclose(stored.logits(IDS), floats.logits(IDS), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_blocks_of_256_in_a_whole_model(tmp_path, rng, backend, kind):
    model = make(hidden_size=256, intermediate_size=512, num_hidden_layers=1)
    _, size = gguf.GGML_QUANT_SIZES[files.KINDS[kind]]
    tensors = files.tensors_of(model)
    for name, array in tensors.items():
        if array.ndim == 2:
            blocks = rng.integers(0, 256, size=(*array.shape[:-1], array.shape[-1] // 256, size), dtype=np.uint8)
            for start in {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,)}.get(kind, (0, 2)):
                blocks[..., start:start + 2] = np.array([2e-4], dtype=np.float16).view(np.uint8)
            tensors[name] = kind, blocks.reshape(len(array), -1)
    path = files.write(tmp_path / "model.gguf", files.metadata_of(model.config), tensors)
    floats, stored = tl.load(path, backend=backend), tl.load(path, backend=backend, quantization="stored")
    logits = floats.logits(IDS)
    assert np.all(np.isfinite(logits))
    np.testing.assert_allclose(stored.logits(IDS), logits, rtol=0, atol=1e-4 * np.abs(logits).max())


# ---- transformers

@pytest.mark.parametrize(("architecture", "settings", "kind"), [
    ("llama", {"tie_word_embeddings": True}, "Q4_1"), ("llama", {}, "Q8_0"),
    ("qwen2", {"attention_bias": True, "attention_output_bias": False}, "Q5_0"),
    ("qwen3", {"qk_norm": True, "head_dim": 128}, "Q4_0"),      # 128: transformers does not read the key of the size
])
def test_transformers_reads_the_same_model(tmp_path, architecture, settings, kind):
    torch = pytest.importorskip("torch", reason="torch is not installed, so nothing else can compute the model.")
    transformers = pytest.importorskip("transformers", minversion="5.0", reason="transformers 5 is not installed.")
    path = written(tmp_path / "model.gguf", make(**settings), architecture, kind=kind)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    with torch.no_grad():
        logits = theirs(torch.from_numpy(IDS)).logits.numpy()
    np.testing.assert_allclose(tl.load(path, backend="numpy").logits(IDS), logits, rtol=0, atol=1e-4)
