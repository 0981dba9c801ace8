"""A quantised model is the model of its rounded weights, on every backend, in a quarter of the memory or less."""

import copy
import gc
import tracemalloc

import models_under_test as mut
import numpy as np
import pytest
import strict_device

import tinyllama as tl
from tinyllama.backends import available_backends
from tinyllama.models.quantization import OnDemand, QuantizedLlama
from tinyllama.ops.quantized_linear import Quantized, StackedWeight, dequantize, quantize_groups, quantize_rows

KINDS = {
    "grouped queries": {}, "tied": {"tie_word_embeddings": True}, "biases": {"attention_bias": True, "mlp_bias": True},
    "shared layers": {"num_hidden_layers": 3, "num_unique_layers": 2}, "window": {"sliding_window": 3},
    "layernorm, gelu, learned positions": {"norm": "layernorm", "mlp": "gelu", "positions": "learned"},
    "sinusoidal, dropout": {"positions": "sinusoidal", "dropout": 0.2},
}
every_kind = pytest.mark.parametrize("kind", KINDS)
HELD = {"8 bits": {}, "8 bits, groups": {"bits": 8, "group_size": 2}, "4 bits": {"bits": 4, "group_size": 2}}
however_held = pytest.mark.parametrize("held", HELD)
PROMPTS = [[3, 1, 3, 7], [5], [1, 4]]


def as_floats(weight):
    return dequantize(weight.unpack(), slice(None)) if isinstance(weight, Quantized) else weight


def rounded(model):
    """A floating-point model whose weights are those that the quantised one stands for."""
    twin = tl.Llama(model.config, dtype=model.dtype, seed=None)
    for name, weight in twin.parameters.items():
        weight[...] = as_floats(model.parameters[name])
    return twin


@every_kind
@however_held
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 1e-5)])
def test_it_is_the_model_of_its_rounded_weights(backend, kind, held, dtype, tolerance):
    model = tl.quantize(mut.tiny_model(backend=backend, dtype=dtype, **KINDS[kind]), **HELD[held])
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
@however_held
def test_every_weight_is_within_half_a_scale_of_its_original(backend, kind, held):
    model = mut.tiny_model(backend=backend, **KINDS[kind])
    quantized = tl.quantize(model, **HELD[held])
    assert list(quantized.parameters) == list(model.parameters)
    for name, weight in model.parameters.items():
        mine = quantized.parameters[name]
        assert mine.shape == weight.shape
        if weight.ndim == 1:
            np.testing.assert_array_equal(mine, weight)
            assert not np.shares_memory(mine, weight)
        else:
            assert isinstance(mine, Quantized)
            assert mine.bits == HELD[held].get("bits", 8)
            scales = mine.unpack().scales
            scales = np.repeat(scales, weight.shape[1] // scales.shape[1], axis=1)
            assert (np.abs(as_floats(mine) - weight) <= scales / 2 * (1 + 1e-12)).all()


def test_the_parts_of_a_fused_weight_are_what_it_is_stacked_of(backend):
    model = tl.quantize(mut.tiny_model(backend=backend, tie_word_embeddings=True, attention_bias=True))
    parameters, names = model.parameters, [f"model.layers.1.self_attn.{part}_proj" for part in "qkv"]
    whole = parameters["model.layers.1.self_attn.qkv_proj.weight"]
    assert isinstance(whole, StackedWeight)
    assert all(part is parameters[f"{name}.weight"] for part, name in zip(whole.parts, names, strict=True))
    bias, start = parameters["model.layers.1.self_attn.qkv_proj.bias"], 0
    for name in names:
        part = parameters[f"{name}.bias"]
        assert np.shares_memory(part, bias)
        np.testing.assert_array_equal(part, bias[start:start + len(part)])
        start += len(part)
    assert start == len(bias)
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


@however_held
def test_it_runs_on_a_device_with_the_transfers_of_the_original(held):
    host = mut.tiny_model(tie_word_embeddings=True)
    device = tl.Llama(host.config, backend=strict_device.backend(), dtype="float64")
    for name, weight in host.parameters.items():
        device.parameters[name][...] = strict_device.asarray(weight)
    host, device = (tl.quantize(model, **HELD[held]) for model in (host, device))
    np.testing.assert_allclose(device.logits(mut.IDS).get(), host.logits(mut.IDS), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(list(device.generate(PROMPTS, 4)), list(host.generate(PROMPTS, 4)))
    with strict_device.counted() as transfers:
        device.logits(mut.IDS)
    assert (transfers.uploads, transfers.downloads) == (1, 0)


# ---- made of weights by name, without a model of floats

def mixed_weights(model, asked=None):
    """Weights of every kind, those of one fused matrix different from each other, each made when it is asked for."""
    makers = [lambda weight: quantize_groups(weight, 4, 2), quantize_rows, lambda weight: quantize_groups(weight, 8, 2),
              lambda weight: weight, lambda weight: quantize_groups(weight, 4, weight.shape[1])]
    numbers = {name: number for number, name in enumerate(model.parameters)}

    def make(name):
        if asked is not None:
            asked.append(name)
        weight = model.parameters[name]
        return weight if weight.ndim == 1 else makers[numbers[name] % len(makers)](weight)
    return OnDemand(make)


@every_kind
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 1e-5)])
def test_weights_of_any_kind_make_a_model(backend, kind, dtype, tolerance):
    original = mut.tiny_model(backend=backend, dtype=dtype, **KINDS[kind])
    asked = []
    model = QuantizedLlama(original.config, mixed_weights(original, asked), backend=backend, dtype=dtype)
    assert sorted(asked) == sorted(original.parameters)
    parts = model.parameters["model.layers.0.self_attn.qkv_proj.weight"].parts
    assert len({getattr(part, "bits", None) for part in parts}) > 1
    twin = rounded(model)
    expected = twin.logits(mut.IDS)
    np.testing.assert_allclose(model.logits(mut.IDS), expected, rtol=0, atol=tolerance * np.abs(expected).max())
    if dtype == "float64":
        for prompt in (PROMPTS[0], PROMPTS):
            received, expected = (list(m.generate(prompt, 5, seed=1)) for m in (model, twin))
            np.testing.assert_array_equal(received, expected)


def test_it_keeps_nothing_of_what_it_was_made_of(backend):
    original = mut.tiny_model(backend=backend, attention_bias=True)
    given = {name: mixed_weights(original)[name] for name in original.parameters}
    model = QuantizedLlama(original.config, given, backend=backend, dtype="float64")
    before = model.logits(mut.IDS)
    for weight in given.values():
        for array in weight if isinstance(weight, Quantized) else [weight]:
            if array is not None:
                array[...] = 0
    np.testing.assert_array_equal(model.logits(mut.IDS), before)


def test_float32_scales_do_not_narrow_a_model_of_float64(backend):
    original = mut.tiny_model()
    weights = OnDemand(lambda name: original.parameters[name].astype(np.float32) if "norm" in name
                       else quantize_groups(original.parameters[name].astype(np.float32), 4, 2))
    model = QuantizedLlama(original.config, weights, backend=backend, dtype="float64")
    assert model.logits(mut.IDS).dtype == np.float64
    np.testing.assert_allclose(model.logits(mut.IDS), rounded(model).logits(mut.IDS), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name, change, error, message", [
    ("model.layers.1.mlp.up_proj.weight", lambda weight: quantize_rows(weight[1:]), ValueError,
     r"model\.layers\.1\.mlp\.up_proj\.weight: expected the shape \(10, 16\), got \(9, 16\)"),
    ("model.layers.1.mlp.up_proj.weight", lambda weight: weight[:, 1:], ValueError,
     r"model\.layers\.1\.mlp\.up_proj\.weight: expected the shape \(10, 16\), got \(10, 15\)"),
    ("model.norm.weight", lambda weight: weight[1:], ValueError,
     r"model\.norm\.weight: expected the shape \(16,\), got \(15,\)"),
    ("lm_head.weight", lambda weight: quantize_rows(weight)._replace(scales=np.ones(13)), ValueError,
     r"lm_head\.weight: scales: expected the shape \(13, G\)"),
    ("lm_head.weight", lambda weight: quantize_rows(weight)._replace(values=weight), TypeError,
     r"lm_head\.weight: values: expected an array of int8"),
])
def test_weights_that_do_not_fit_are_refused_by_name(backend, name, change, error, message):
    original = mut.tiny_model()
    weights = {**original.parameters, name: change(original.parameters[name])}
    with pytest.raises(error, match=message):
        QuantizedLlama(original.config, weights, backend=backend, dtype="float64")


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


@pytest.mark.parametrize("bits, group_size, share", [(8, 32, 1 / 4 + 1 / 32), (4, 32, 1 / 8 + 2 / 32)])
def test_in_groups_there_are_the_scales_and_the_offsets_beside_the_numbers(backend, bits, group_size, share):
    config = mut.tiny_config(**LARGER | {"vocab_size": 20000, "intermediate_size": 320})
    model = tl.Llama(config, backend=backend)
    float_bytes = sum(weight.nbytes for weight in model.parameters.values())
    gc.collect()
    tracemalloc.start()
    quantized = tl.quantize(model, bits, group_size)
    gc.collect()
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    held = sum(weight.nbytes for weight in quantized.parameters.values())
    assert held == pytest.approx(share * float_bytes, rel=0.02)
    assert held <= kept < 1.05 * held + 50_000      # one form of each weight, and what Python needs
    assert peak < 2.5 * held                        # the largest matrix twice: 0.9 of all weights


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
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.up_proj\.weight: expected finite weights"):
        tl.quantize(model)


def test_wrong_arguments_are_refused():
    model = mut.tiny_model()
    with pytest.raises(ValueError, match="bits: expected 4 or 8, got 5"):
        tl.quantize(model, bits=5)
    with pytest.raises(ValueError, match=r"embed_tokens\.weight: group_size: expected a divisor of the 16 columns"):
        tl.quantize(model, bits=4)
    with pytest.raises(ValueError, match=r"down_proj\.weight: group_size: expected a divisor of the 10 columns, got 4"):
        tl.quantize(model, bits=8, group_size=4)
    with pytest.raises(TypeError, match="model: expected a Llama, got None"):
        tl.quantize(None)
    with pytest.raises(TypeError, match="model: expected one with floating-point weights, got a quantised one"):
        tl.quantize(tl.quantize(model))


@however_held
def test_a_deep_copy_gives_the_same_and_goes_its_own_way(backend, held):
    model = tl.quantize(mut.tiny_model(backend=backend, tie_word_embeddings=True), **HELD[held])
    kept = copy.deepcopy(model)
    assert isinstance(kept, QuantizedLlama)
    before = model.logits(mut.IDS)
    np.testing.assert_array_equal(kept.logits(mut.IDS), before)
    for name, weight in model.parameters.items():
        for array in (weight.values, weight.scales) if isinstance(weight, Quantized) else [weight]:
            array[...] = 0
        assert kept.parameters[name].shape == weight.shape
    np.testing.assert_array_equal(kept.logits(mut.IDS), before)
    assert kept.parameters["lm_head.weight"] is kept.parameters["model.embed_tokens.weight"]


@pytest.mark.parametrize("name", available_backends())
def test_its_loss_needs_no_gradients_to_choose_the_workers(name):
    model = mut.tiny_model(backend=name, workers=None)
    assert float(tl.quantize(model).loss(mut.IDS, mut.TARGETS)) == pytest.approx(
        float(model.loss(mut.IDS, mut.TARGETS)), rel=0.05)
