"""A quantised model is the model of its rounded weights, on every backend, in a quarter of the memory."""

import copy
import gc
import tracemalloc

import models_under_test as mut
import numpy as np
import pytest
import strict_device

import tinyllama as tl
from tinyllama.backends import available_backends
from tinyllama.models.quantization import QuantizedLlama
from tinyllama.ops.quantized_linear import QuantizedWeight

KINDS = {
    "grouped queries": {}, "tied": {"tie_word_embeddings": True}, "biases": {"attention_bias": True, "mlp_bias": True},
    "shared layers": {"num_hidden_layers": 3, "num_unique_layers": 2}, "window": {"sliding_window": 3},
    "layernorm, gelu, learned positions": {"norm": "layernorm", "mlp": "gelu", "positions": "learned"},
    "sinusoidal, dropout": {"positions": "sinusoidal", "dropout": 0.2},
}
every_kind = pytest.mark.parametrize("kind", KINDS)
PROMPTS = [[3, 1, 3, 7], [5], [1, 4]]


def as_floats(weight):
    return weight.values * weight.scales if isinstance(weight, QuantizedWeight) else weight


def rounded(model):
    """A floating-point model whose weights are those that the quantised one stands for."""
    twin = tl.Llama(model.config, dtype=model.dtype, seed=None)
    for name, weight in twin.parameters.items():
        weight[...] = as_floats(model.parameters[name])
    return twin


@every_kind
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 1e-5)])
def test_it_is_the_model_of_its_rounded_weights(backend, kind, dtype, tolerance):
    model = tl.quantize(mut.tiny_model(backend=backend, dtype=dtype, **KINDS[kind]))
    twin = rounded(model)
    for documents in (None, mut.DOCUMENTS):
        logits, expected = (m.logits(mut.IDS, documents=documents) for m in (model, twin))
        assert logits.dtype == dtype
        np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance * np.abs(expected).max())
        loss = model.loss(mut.IDS, mut.TARGETS, documents=documents)
        assert float(loss) == pytest.approx(float(twin.loss(mut.IDS, mut.TARGETS, documents=documents)), rel=tolerance)
    if dtype == "float64":
        for prompt in (PROMPTS[0], PROMPTS):
            received, expected = (list(m.generate(prompt, 5, seed=1)) for m in (model, twin))
            np.testing.assert_array_equal(received, expected)


@every_kind
def test_every_weight_is_within_half_a_scale_of_its_original(kind):
    model = mut.tiny_model(**KINDS[kind])
    quantized = tl.quantize(model)
    assert list(quantized.parameters) == list(model.parameters)
    for name, weight in model.parameters.items():
        held = quantized.parameters[name]
        assert held.shape == weight.shape
        if weight.ndim == 1:
            np.testing.assert_array_equal(held, weight)
            assert not np.shares_memory(held, weight)
        else:
            assert isinstance(held, QuantizedWeight)
            assert held.values.dtype == np.int8
            assert (np.abs(as_floats(held) - weight) <= held.scales / 2 * (1 + 1e-12)).all()


def test_the_parts_of_a_fused_weight_are_views_of_its_rows():
    parameters = tl.quantize(mut.tiny_model(tie_word_embeddings=True)).parameters
    whole, start = parameters["model.layers.1.self_attn.qkv_proj.weight"], 0
    for part in "qkv":
        weight = parameters[f"model.layers.1.self_attn.{part}_proj.weight"]
        for array, of_whole in zip(weight, whole, strict=True):
            assert np.shares_memory(array, of_whole)
            np.testing.assert_array_equal(array, of_whole[start:start + len(array)])
        start += weight.shape[0]
    assert start == whole.shape[0]
    assert parameters["lm_head.weight"] is parameters["model.embed_tokens.weight"]


def test_the_original_stays_as_it_is():
    model = mut.tiny_model()
    before, logits = mut.copies(model.parameters), model.logits(mut.IDS)
    tl.quantize(model)
    for name, weight in model.parameters.items():
        np.testing.assert_array_equal(weight, before[name])
    model.loss_and_grads(mut.IDS, mut.TARGETS)
    np.testing.assert_array_equal(model.logits(mut.IDS), logits)


def test_the_scale_of_another_row_would_be_noticed():
    model = tl.quantize(mut.tiny_model())
    expected = rounded(model).logits(mut.IDS)
    scales = model.parameters["model.layers.0.mlp.down_proj.weight"].scales
    scales[...] = np.roll(scales, 1, axis=0)
    assert np.abs(model.logits(mut.IDS) - expected).max() > 1e-3 * np.abs(expected).max()


def test_it_runs_on_a_device_with_the_transfers_of_the_original():
    host = mut.tiny_model(tie_word_embeddings=True)
    device = tl.Llama(host.config, backend=strict_device.backend(), dtype="float64")
    for name, weight in host.parameters.items():
        device.parameters[name][...] = strict_device.asarray(weight)
    host, device = tl.quantize(host), tl.quantize(device)
    np.testing.assert_allclose(device.logits(mut.IDS).get(), host.logits(mut.IDS), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(list(device.generate(PROMPTS, 4)), list(host.generate(PROMPTS, 4)))
    with strict_device.counted() as transfers:
        device.logits(mut.IDS)
    assert (transfers.uploads, transfers.downloads) == (1, 0)


# ---- memory

LARGER = {"vocab_size": 2000, "hidden_size": 128, "intermediate_size": 300, "num_attention_heads": 4}


def test_the_memory_is_about_a_quarter_and_no_float_matrix_is_kept():
    model = tl.Llama(mut.tiny_config(**LARGER | {"vocab_size": 20000}))
    float_bytes = sum(weight.nbytes for weight in model.parameters.values())
    gc.collect()
    tracemalloc.start()
    quantized = tl.quantize(model)
    gc.collect()
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    held = sum(weight.nbytes for weight in quantized.parameters.values())
    assert held < 0.27 * float_bytes
    assert held <= kept < 0.3 * float_bytes         # what Python itself needs for the layers comes to a few kilobytes
    assert peak < 0.6 * float_bytes                 # a thousand rows at a time are floats


def test_using_it_makes_no_float_copy_of_a_matrix(backend):
    model = tl.quantize(tl.Llama(mut.tiny_config(**LARGER | {"vocab_size": 20000}), backend=backend))
    table_bytes = model.parameters["model.embed_tokens.weight"].size * 4        # of float32
    model.logits([[1, 2, 3]])                       # compiles what has to be compiled
    gc.collect()
    tracemalloc.start()
    model.logits([[1, 2, 3]])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.3 * table_bytes


# ---- what it refuses

@pytest.mark.parametrize("use", [
    lambda model: model.loss_and_grads(mut.IDS, mut.TARGETS), lambda model: tl.AdamW(model),
    lambda model: tl.SGD(model, learning_rate=0.1).step(), lambda model: model.parameters.new_gradients(),
    lambda model: model.parameters.frozen,
    lambda model: tl.gradcheck_model(model, mut.IDS, mut.TARGETS)])
def test_it_cannot_be_trained(use):
    model = tl.quantize(mut.tiny_model())
    with pytest.raises(TypeError, match="model: expected one with floating-point weights, got a quantised one"):
        use(model)


def test_it_cannot_be_saved(tmp_path):
    with pytest.raises(TypeError, match="a quantised model can be neither saved nor trained"):
        tl.save(tl.quantize(mut.tiny_model()), tmp_path / "model")
    assert not (tmp_path / "model").exists()
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(number):
    model = mut.tiny_model()
    model.parameters["model.layers.1.mlp.up_proj.weight"][2, 3] = number
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.gate_up_proj\.weight: expected finite weights"):
        tl.quantize(model)


def test_wrong_arguments_are_refused():
    model = mut.tiny_model()
    with pytest.raises(ValueError, match="bits: expected 8, got 4"):
        tl.quantize(model, bits=4)
    with pytest.raises(TypeError, match="model: expected a Llama, got None"):
        tl.quantize(None)
    with pytest.raises(TypeError, match="model: expected one with floating-point weights, got a quantised one"):
        tl.quantize(tl.quantize(model))


def test_a_deep_copy_gives_the_same_and_goes_its_own_way():
    model = tl.quantize(mut.tiny_model(tie_word_embeddings=True))
    kept = copy.deepcopy(model)
    assert isinstance(kept, QuantizedLlama)
    before = model.logits(mut.IDS)
    np.testing.assert_array_equal(kept.logits(mut.IDS), before)
    for name, weight in model.parameters.items():
        if isinstance(weight, QuantizedWeight):
            weight.values[...] = 0
        else:
            weight[...] = 0
        assert kept.parameters[name].shape == weight.shape
    np.testing.assert_array_equal(kept.logits(mut.IDS), before)
    assert np.shares_memory(kept.parameters["lm_head.weight"].values,
                            kept.parameters["model.embed_tokens.weight"].values)


@pytest.mark.parametrize("name", available_backends())
def test_its_loss_needs_no_gradients_to_choose_the_workers(name):
    model = mut.tiny_model(backend=name, workers=None)
    assert float(tl.quantize(model).loss(mut.IDS, mut.TARGETS)) == pytest.approx(
        float(model.loss(mut.IDS, mut.TARGETS)), rel=0.05)
