"""A model with LoRA's updates: what is trained and what is not, its gradients, and merging."""

import copy

import models_under_test as mut
import numpy as np
import pytest
import strict_device

import tinyllama as tl
from tinyllama.backends import available_backends
from tinyllama.gradients import GradientError, gradcheck_model
from tinyllama.models import lora
from tinyllama.nn.lora import LoraLinear, LowRankUpdate

GPT2 = {"norm": "layernorm", "mlp": "gelu", "positions": "learned", "num_key_value_heads": 4, "attention_bias": True,
        "mlp_bias": True}
KINDS = {
    "plain": {}, "tied": {"tie_word_embeddings": True}, "biases": {"attention_bias": True, "mlp_bias": True},
    "shared layers": {"num_hidden_layers": 3, "num_unique_layers": 2}, "GPT-2": GPT2, "dropout": {"dropout": 0.3},
}
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
every_kind = pytest.mark.parametrize("kind", KINDS)
every_backend = pytest.mark.parametrize("name", available_backends())
VALID = int(np.count_nonzero(mut.TARGETS != -100))


def adapted(targets="all-linear", *, rank=3, alpha=7.5, backend="numpy", dtype="float64", workers=1, fresh=False,
            **changes):
    """A tiny model whose updates are as far from zero as its weights, unless they are `fresh`."""
    settings = tl.LoraSettings(rank, alpha, targets)
    model = tl.Llama(mut.tiny_config(**changes), backend=backend, dtype=dtype, workers=workers, lora=settings)
    before = {name: array.copy() for name, array in model.parameters.items() if ".lora_" in name}
    mut.randomize(model.parameters)
    if fresh:
        for name, array in before.items():
            model.parameters[name][...] = array
    return model


def step(model, ids=mut.IDS, targets=mut.TARGETS, **settings):
    """(loss, a copy of the gradients)."""
    if model.config.dropout:
        settings.setdefault("dropout", (5, 3, 1))
    loss, grads = model.loss_and_grads(ids, targets, **settings)
    return float(loss), mut.copies(grads)


# ---- as it begins

@every_kind
@every_backend
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_fresh_update_changes_nothing_bit_for_bit(dtype, name, kind):
    plain = mut.tiny_model(backend=name, dtype=dtype, **KINDS[kind])
    for model in (adapted(fresh=True, backend=name, dtype=dtype, **KINDS[kind]),
                  tl.add_lora(plain, tl.LoraSettings(target_modules="all-linear"))):
        np.testing.assert_array_equal(model.logits(mut.IDS), plain.logits(mut.IDS))
        assert step(model)[0] == step(plain)[0]


@pytest.mark.parametrize("seed", [0, 3])
def test_the_weights_are_drawn_as_without_lora(seed):
    plain, model = (tl.Llama(mut.tiny_config(), seed=seed, lora=settings) for settings in (None, tl.LoraSettings()))
    assert list(model.parameters)[:len(plain.parameters)] == list(plain.parameters)
    for name, weight in plain.parameters.items():
        np.testing.assert_array_equal(model.parameters[name], weight)


def test_a_is_drawn_from_the_seed_of_the_settings_whether_the_weights_are_drawn_or_not():
    def first(seed, weights):
        settings = tl.LoraSettings(16, target_modules=("down_proj",), seed=seed)
        model = tl.Llama(mut.tiny_config(intermediate_size=300), seed=weights, lora=settings, dtype="float64")
        return model.parameters["model.layers.1.mlp.down_proj.lora_A.weight"]

    np.testing.assert_array_equal(first(0, None), first(0, 5))
    assert not np.array_equal(first(0, None), first(1, None))
    assert np.std(first(0, None)) == pytest.approx(1 / np.sqrt(3 * 300), rel=0.05)
    assert abs(np.mean(first(0, None))) < 0.002


def test_b_begins_at_zero_so_that_the_first_gradient_is_of_b_alone():
    model = adapted(fresh=True)
    _, grads = step(model)
    for name, gradient in grads.items():
        assert np.any(gradient) == ("lora_B" in name), name


# ---- what is trained

@pytest.mark.parametrize("targets, expected", [
    (("q_proj", "v_proj"), ["self_attn.q_proj", "self_attn.v_proj"]), (["down_proj"], ["mlp.down_proj"]),
    ("all-linear", [f"{'mlp' if name in ALL[4:] else 'self_attn'}.{name}" for name in ALL])])
def test_only_the_updates_of_the_targets_are_trained(targets, expected):
    model = adapted(targets)
    _, grads = step(model)
    assert list(grads) == [f"model.layers.{layer}.{name}.lora_{factor}.weight"
                           for layer in range(2) for name in expected for factor in "AB"]
    assert model.gradient.size == model.parameters.trainable.size


def test_the_head_may_be_a_target():
    model = adapted(("v_proj", "lm_head"))
    assert list(step(model)[1])[-2:] == ["lm_head.lora_A.weight", "lm_head.lora_B.weight"]
    assert gradcheck_model(model, mut.IDS, mut.TARGETS).error <= 1e-6
    assert "lm_head.lora_A.weight" not in adapted().parameters


@every_kind
def test_buffers_gradients_and_moments_have_the_size_of_the_updates(kind):
    model = adapted(dtype="float32", **KINDS[kind])
    arrays = [array for name, array in model.parameters.items() if ".lora_" in name]
    in_lines = sum(-(-array.size // 16) * 16 for array in arrays)       # each begins on a cache line of 64 bytes
    assert model.parameters.trainable.size == in_lines
    assert lora.trainable_size(model.config, model.lora) == sum(array.size for array in arrays)
    assert lora.trainable_size(model.config, None) == sum(
        array.size for name, array in model.parameters.items() if ".lora_" not in name)
    step(model)
    assert model.gradient.size == in_lines
    optimizer = tl.AdamW(model)
    optimizer.step()
    assert {array.size for array in optimizer.state().values()} == {in_lines}


@every_backend
def test_training_moves_the_updates_and_leaves_the_weights_as_they_are_bit_for_bit(name):
    model = adapted(fresh=True, dtype="float32", backend=name, workers=2)
    frozen, before = model.parameters.frozen.copy(), mut.copies(model.parameters)
    optimizer, losses = tl.AdamW(model, learning_rate=0.02, weight_decay=0.1), []
    for _ in range(40):
        losses.append(step(model)[0])
        optimizer.step(max_grad_norm=1.0)
    assert losses[-1] < 0.5 * losses[0]
    np.testing.assert_array_equal(model.parameters.frozen, frozen)
    for parameter, array in model.parameters.items():
        assert np.array_equal(array, before[parameter]) == (".lora_" not in parameter), parameter


def test_no_gradient_of_a_frozen_weight_is_computed():
    calls = []
    model = adapted(backend=mut.spying(calls), **KINDS["biases"])
    step(model)
    thin = [array for name, array in model.parameters.items() if ".lora_" in name]
    for name, args, _, _ in calls:
        assert name != "embedding_backward"
        if name == "rmsnorm_backward":
            assert not args[2][1]
        if name == "linear_backward":
            is_update = any(np.shares_memory(args[1].weight, array) for array in thin)
            assert tuple(map(bool, args[2])) == (True, is_update, False)


def test_everything_is_computed_in_the_dtype_of_the_model():
    calls = []
    model = adapted(dtype="float32", backend=mut.spying(calls, "linear_forward", "linear_backward"))
    loss, grads = model.loss_and_grads(mut.IDS, mut.TARGETS)
    arrays = [loss, *grads.values(), model.logits(mut.IDS)]
    for _, args, _, result in calls:
        arrays += [array for array in (args[0], result[0], result[1]) if isinstance(array, np.ndarray)]
    assert {array.dtype for array in arrays} == {np.dtype("float32")}


# ---- gradients of the whole

@every_kind
def test_every_gradient_of_a_whole_model_with_updates_everywhere(kind):
    model = adapted(**KINDS[kind])
    report = gradcheck_model(model, mut.IDS, mut.TARGETS, **{"dropout": (5, 3, 1)} if kind == "dropout" else {})
    assert report.error <= 1e-6
    assert sorted(row.argument for row in report.rows) == sorted(name for name in model.parameters if ".lora_" in name)
    assert all(row.norm > 1e-3 for row in report.rows)


def scale_left_out(self, dy, cache, grads):
    dz, db, _ = self.ops.linear_backward(dy, cache[1])
    dx, da, _ = self.ops.linear_backward(dz, cache[0])
    grads.add(self.a, da)
    grads.add(self.b, db)
    return dx


def assigned(self, dy, cache, grads):
    dz, db, _ = self.ops.linear_backward(dy, cache[1])
    dx, da, _ = self.ops.linear_backward(self.scale * dz, cache[0])
    grads[self.a][...], grads[self.b][...] = da, db
    return dx


def rows_of_a_neighbour(self, dy, cache, grads, _backward=LoraLinear.backward):
    return _backward(self, np.roll(dy, self.pieces[0][0].stop, axis=-1), cache, grads)


def forgets_the_input(self, dy, cache, grads):
    for (rows, update), update_cache in zip(self.pieces, cache[1], strict=True):
        if update is not None:
            update.backward(dy[..., rows], update_cache, grads)
    return self.linear.backward(dy, cache[0], grads)


@pytest.mark.parametrize("layer, wrong", [
    (LowRankUpdate, scale_left_out), (LowRankUpdate, assigned), (LoraLinear, rows_of_a_neighbour),
    (LoraLinear, forgets_the_input)])
def test_a_wrong_layer_is_rejected(layer, wrong, monkeypatch):
    model = adapted(**KINDS["shared layers"])
    monkeypatch.setattr(layer, "backward", wrong)
    with pytest.raises(GradientError, match=r"the gradient of model\..*lora_[AB]\.weight is wrong"):
        gradcheck_model(model, mut.IDS, mut.TARGETS)


@every_kind
@every_backend
@pytest.mark.parametrize("workers", [2, 3])
def test_workers_do_not_change_loss_or_gradient(workers, name, kind):
    loss, grads = step(adapted(**KINDS[kind]))
    shared_loss, shared_grads = step(adapted(workers=workers, backend=name, **KINDS[kind]))
    assert shared_loss == pytest.approx(loss, abs=1e-12)
    mut.assert_same_gradients(shared_grads, grads)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("split", [[[0], [1, 2]], [[0], [1], [2]], [[2], [0], [1]]], ids=str)
def test_micro_batches_add_up_to_the_batch(split, workers):
    loss, grads = step(adapted())
    model, losses = adapted(workers=workers), []
    for i, rows in enumerate(split):
        part, received = model.loss_and_grads(mut.IDS[rows], mut.TARGETS[rows], divisor=VALID, accumulate=i > 0)
        losses.append(float(part))
    assert sum(losses) == pytest.approx(loss, abs=1e-12)
    mut.assert_same_gradients(received, grads)


def test_it_runs_on_a_device():
    host = adapted(("q_proj", "up_proj"))
    device = tl.Llama(host.config, backend=strict_device.backend(), dtype="float64", lora=host.lora)
    for name, weight in host.parameters.items():
        device.parameters[name][...] = strict_device.asarray(weight)
    loss, grads = step(host)
    its_loss, its_grads = device.loss_and_grads(mut.IDS, mut.TARGETS)
    assert float(its_loss) == pytest.approx(loss, abs=1e-12)
    mut.assert_same_gradients({name: array.get() for name, array in its_grads.items()}, grads)
    np.testing.assert_allclose(tl.merge_lora(device).logits(mut.IDS).get(), host.logits(mut.IDS), rtol=0, atol=1e-12)


# ---- merging

@every_kind
@every_backend
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 2e-5)])
def test_a_merged_model_computes_the_same_and_is_plain(dtype, tolerance, name, kind):
    model = adapted(dtype=dtype, backend=name, **KINDS[kind])
    before, logits = mut.copies(model.parameters), model.logits(mut.IDS)
    merged = tl.merge_lora(model)
    np.testing.assert_allclose(merged.logits(mut.IDS), logits, rtol=0, atol=tolerance * np.abs(logits).max())
    assert merged.lora is None
    assert list(merged.parameters) == list(mut.tiny_model(**KINDS[kind]).parameters)
    assert list(step(merged)[1])            # it can be trained again, all of it
    mut.assert_same_gradients(model.parameters, before, tolerance=0)


def test_merging_without_the_scale_or_transposed_would_be_seen(monkeypatch):
    model = adapted(("o_proj",))            # 16 x 16, so that its transpose fits
    logits = model.logits(mut.IDS)
    right = LowRankUpdate.matrix
    for wrong in (lambda self: right(self) / self.scale, lambda self: right(self).T, lambda self: 0 * right(self)):
        monkeypatch.setattr(LowRankUpdate, "matrix", wrong)
        assert np.abs(tl.merge_lora(model).logits(mut.IDS) - logits).max() > 1e-2


@every_backend
@pytest.mark.parametrize("prompt", [[3, 1, 3], [[3, 1, 3], [5]]], ids=["one", "several"])
def test_generation_goes_with_the_updates(prompt, name):
    model = adapted(backend=name)
    received = [np.asarray(token) for token in model.generate(prompt, 5, temperature=0)]
    np.testing.assert_array_equal(received, list(tl.merge_lora(model).generate(prompt, 5, temperature=0)))
    if np.ndim(prompt[0]) == 0:             # without any cache, token by token
        ids = list(prompt)
        for token in received:
            assert int(np.argmax(model.logits([ids])[0, -1])) == int(token)
            ids.append(int(token))


def test_a_deep_copy_gives_the_same_and_goes_its_own_way():
    model = adapted()
    kept = copy.deepcopy(model)
    assert kept.lora == model.lora
    before = model.logits(mut.IDS)
    np.testing.assert_array_equal(kept.logits(mut.IDS), before)
    step(model)
    tl.AdamW(model).step()
    np.testing.assert_array_equal(kept.logits(mut.IDS), before)
    assert not np.array_equal(model.logits(mut.IDS), before)


def test_the_updates_may_be_added_to_a_model_and_it_stays_as_it_is():
    model = mut.tiny_model()
    before = mut.copies(model.parameters)
    more = tl.add_lora(model, tl.LoraSettings(2))
    step(more)
    tl.AdamW(more, learning_rate=0.1).step()
    mut.assert_same_gradients(model.parameters, before, tolerance=0)
    assert more.lora == tl.LoraSettings(2)
    assert not any(np.shares_memory(more.parameters[name], array) for name, array in model.parameters.items())


# ---- what is refused

@pytest.mark.parametrize("settings, error, message", [
    ({"rank": 0}, ValueError, "rank: expected a whole number of at least 1, got 0"),
    ({"rank": 2.0}, ValueError, r"rank: expected a whole number of at least 1, got 2\.0"),
    ({"rank": True}, ValueError, "rank: expected a whole number"),
    ({"seed": -1}, ValueError, "seed: expected a whole number of at least 0, got -1"),
    ({"alpha": 0}, ValueError, "alpha: expected a number above 0, got 0"),
    ({"alpha": float("nan")}, ValueError, "alpha: expected a number above 0, got nan"),
    ({"alpha": float("inf")}, ValueError, "alpha: expected a number above 0, got inf"),
    ({"alpha": True}, ValueError, "alpha: expected a number above 0, got True"),
    ({"alpha": "8"}, ValueError, "alpha: expected a number above 0, got '8'"),
    ({"target_modules": "q_proj"}, TypeError, "target_modules: expected a list of names, or 'all-linear', got 'q_"),
    ({"target_modules": None}, TypeError, "target_modules: expected a list of names, or 'all-linear', got None"),
    ({"target_modules": [3]}, TypeError, "target_modules: expected a list of names"),
    ({"target_modules": ()}, ValueError, "target_modules: expected at least one name, got none"),
])
def test_settings_out_of_their_range_are_refused_by_name(settings, error, message):
    with pytest.raises(error, match=f"^{message}"):
        tl.LoraSettings(**settings)


NAMES = "down_proj, gate_proj, k_proj, {}o_proj, q_proj, up_proj, v_proj, or 'all-linear'"


@pytest.mark.parametrize("targets, changes, names, got", [
    (["q_proj", "c_attn"], {}, NAMES.format("lm_head, "), "c_attn"),
    (["qkv_proj"], {}, NAMES.format("lm_head, "), "qkv"),
    (["lm_head"], {"tie_word_embeddings": True}, NAMES.format(""),
     "lm_head; the head shares its weights with the embedding here$"),
    (["embed_tokens"], {}, NAMES.format("lm_head, "), "embed_tokens"),
    (["gate_proj"], GPT2, "down_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj", "gate_proj")])
def test_a_layer_that_the_model_does_not_have_is_refused_with_the_list(targets, changes, names, got):
    with pytest.raises(ValueError, match=f"^target_modules: expected names among {names}.*, got {got}"):
        adapted(targets, **changes)


@pytest.mark.parametrize("target, layer, shape, limit", [
    ("k_proj", r"self_attn\.k_proj", r"\(8, 16\)", 8), ("down_proj", r"mlp\.down_proj", r"\(16, 10\)", 10)])
def test_a_rank_beyond_the_smaller_side_of_a_layer_is_refused(target, layer, shape, limit):
    adapted([target], rank=limit)
    with pytest.raises(ValueError, match=rf"^rank: expected at most {limit}, the smaller side of model\.layers\.0\."
                                         rf"{layer}\.weight {shape}, got {limit + 1}$"):
        adapted([target], rank=limit + 1)


@pytest.mark.parametrize("use, error, message", [
    (lambda plain, model: tl.Llama(plain.config, lora={"rank": 3}), TypeError, "lora: expected LoraSettings or None"),
    (lambda plain, model: tl.Llama(plain.config, lora=tl.LoraSettings(), frozen=["model.norm.*"]), ValueError,
     "frozen: expected no patterns beside lora"),
    (lambda plain, model: tl.merge_lora(plain), ValueError, "model: expected one with LoRA's updates, got one without"),
    (lambda plain, model: tl.add_lora(model, tl.LoraSettings()), ValueError, "model: expected one without LoRA's"),
    (lambda plain, model: tl.add_lora(tl.quantize(plain), tl.LoraSettings()), TypeError,
     "model: expected a Llama with floating-point weights, got QuantizedLlama"),
])
def test_what_does_not_go_together_is_refused(use, error, message):
    with pytest.raises(error, match=message):
        use(mut.tiny_model(), adapted())
