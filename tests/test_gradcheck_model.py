"""The gradients of whole models, checked by differences; and the checker, which must reject every mistake planted."""

import models_under_test as mut
import numpy as np
import pytest

from tinyllama import ops
from tinyllama.backends import load_backend
from tinyllama.gradients import GradientError, gradcheck_model
from tinyllama.nn import Attention, Block, Embedding

GPT2 = {"norm": "layernorm", "mlp": "gelu", "positions": "learned", "num_key_value_heads": 4, "attention_bias": True,
        "mlp_bias": True}
# The bar of the project: everything that makes gradients meet, at once. The ids repeat tokens.
BAR = {"tie_word_embeddings": True, "num_hidden_layers": 3, "num_unique_layers": 2}
CONFIGURATIONS = {
    "GQA, RoPE, tied embeddings, shared layers": BAR,
    "the same with all biases, a window and dropout": BAR | {"attention_bias": True, "mlp_bias": True,
                                                             "sliding_window": 3, "dropout": 0.3},
    "plain LLaMA, untied": {},
    "MHA": {"num_key_value_heads": None},
    "MQA": {"num_key_value_heads": 1},
    "one layer for all": {"num_hidden_layers": 3, "num_unique_layers": 1},
    "head_dim of its own": {"head_dim": 6},
    "GPT-2: LayerNorm, GELU, learned positions, biases": GPT2,
    "sinusoidal positions, ReLU": {"positions": "sinusoidal", "mlp": "relu"},
    "no positions": {"positions": "none"},
    "no positions, biases": {"positions": "none", "attention_bias": True},
    "sliding window": {"sliding_window": 2},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "scaled rotation": {"rope_scaling": mut.LLAMA3, "rope_theta": 50.0},
    "a large eps": {"rms_norm_eps": 0.3},
    "dropout": {"dropout": 0.3},
}
SETTINGS = {
    "dropout": {"dropout": (5, 3, 1)},
    "the same with all biases, a window and dropout": {"dropout": (5, 3, 1), "documents": mut.DOCUMENTS, "divisor": 40},
}


def zero_by_theory(model):
    """Key biases without rotation: they add the same number to all scores of a query, which the softmax ignores."""
    return [name for name in model.parameters if name.endswith("k_proj.bias") and model.config.positions != "rope"]


def check(model, **settings):
    return gradcheck_model(model, mut.IDS, mut.TARGETS, zero=zero_by_theory(model), **settings)


@pytest.mark.parametrize("label", CONFIGURATIONS)
def test_every_gradient_of_a_whole_model(label):
    model = mut.tiny_model(**CONFIGURATIONS[label])
    report = check(model, **SETTINGS.get(label, {}))
    assert report.error <= 1e-6
    assert sorted(row.argument for row in report.rows) == sorted(model.parameters)
    zero = zero_by_theory(model)
    assert all(row.norm > 1e-3 for row in report.rows if row.argument not in zero)
    assert all(row.norm < 1e-12 for row in report.rows if row.argument in zero)


@pytest.mark.parametrize("label", ["GQA, RoPE, tied embeddings, shared layers", "no positions",
                                   "GPT-2: LayerNorm, GELU, learned positions, biases"])
def test_packed_documents(label):
    check(mut.tiny_model(**CONFIGURATIONS[label]), documents=mut.DOCUMENTS)


def test_several_workers():
    check(mut.tiny_model(workers=3, **BAR))


def test_frozen_weights_are_left_out():
    model = mut.tiny_model(frozen=("model.embed_tokens.*", "model.layers.1.*"))
    report = check(model)
    expected = [name for name in model.parameters if "embed_tokens" not in name and "layers.1" not in name]
    assert sorted(row.argument for row in report.rows) == sorted(expected)


def test_a_fresh_model_passes_too():
    model = mut.Llama(mut.tiny_config(**BAR), dtype="float64")
    assert check(model).error <= 1e-6


# ---- the checker itself

def test_the_report_has_a_row_for_each_parameter_and_prints():
    report = check(mut.tiny_model())
    text = str(report)
    assert text.startswith("Llama: largest relative error")
    assert "model.layers.1.self_attn.k_proj.weight" in text


def test_float32_is_refused():
    with pytest.raises(TypeError, match="model: expected float64 parameters, got float32"):
        check(mut.tiny_model(dtype="float32"))


def test_the_weights_are_put_back_exactly():
    model = mut.tiny_model(attention_bias=True)
    before = model.parameters.trainable.copy()
    check(model)
    np.testing.assert_array_equal(model.parameters.trainable, before)
    with pytest.raises(GradientError):
        gradcheck_model(model, mut.IDS, mut.TARGETS, zero=["model.norm.weight"])
    np.testing.assert_array_equal(model.parameters.trainable, before)


def test_a_parameter_that_is_zero_by_theory_must_be_listed():
    model = mut.tiny_model(positions="none", attention_bias=True)
    with pytest.raises(GradientError, match=r"k_proj\.bias"):
        gradcheck_model(model, mut.IDS, mut.TARGETS)


def test_a_parameter_that_matters_must_not_be_listed():
    model = mut.tiny_model(attention_bias=True)     # with rotation, a key bias does matter
    with pytest.raises(GradientError, match=r"the gradient of model\.layers\.1\.self_attn\.k_proj\.bias is wrong"):
        gradcheck_model(model, mut.IDS, mut.TARGETS, zero=["model.layers.1.self_attn.k_proj.bias"])


# ---- mistakes in operations

def rmsnorm_with_a_constant_rms(dy, cache, needs=None):
    x, weight, rstd = cache
    return rstd * dy * weight, np.sum((dy * x * rstd).reshape(-1, x.shape[-1]), axis=0)


def attention_without_the_mask(dy, cache, needs=None):
    _, unmasked = ops.attention_forward(cache.q, cache.k, cache.v)
    return ops.attention_backward(dy, unmasked, needs)


def attention_without_the_last_key(dy, cache, needs=None):
    dq, dk, dv = ops.attention_backward(dy, cache, needs)
    dk[:, :, -1] = 0
    return dq, dk, dv


def attention_with_the_first_head_of_each_group(dy, cache, needs=None):
    only_first = dy.copy()
    only_first[:, 1::2] = 0
    return *ops.attention_backward(dy, cache, needs)[:2], ops.attention_backward(only_first, cache, needs)[2]


def rope_that_turns_on(dy, cache, needs=None):
    return ops.rope_forward(dy, cos=cache.cos, sin=cache.sin)[0]


def embedding_that_keeps_the_last(dy, cache, needs=None):
    table = np.zeros(cache.table_shape)
    table[cache.ids] = dy
    return table


def linear_with_the_mean_over_rows(dy, cache, needs=None):
    dx, dweight, dbias = ops.linear_backward(dy, cache, needs)
    return dx, None if dweight is None else dweight / len(dy), dbias


def cross_entropy_with_ignored_targets(dloss, cache, needs=None):
    return ops.cross_entropy_backward(dloss, cache._replace(valid=np.ones_like(cache.valid)))


def cross_entropy_without_the_divisor(dloss, cache, needs=None):
    return ops.cross_entropy_backward(dloss, cache._replace(divisor=1))


def softmax_without_the_sum(dy, cache, needs=None):
    return cache.y * dy


def swiglu_with_the_halves_swapped(dy, cache, needs=None):
    return np.roll(ops.swiglu_backward(dy, cache), dy.shape[-1], axis=-1)


def swiglu_with_the_slope_of_a_sigmoid(dy, cache, needs=None):
    dx, gate = ops.swiglu_backward(dy, cache), np.split(cache.x, 2, axis=-1)[0]
    s = 1 / (1 + np.exp(-gate))
    dx[..., :gate.shape[-1]] = dy * np.split(cache.x, 2, axis=-1)[1] * s * (1 - s)
    return dx


def dropout_without_the_factor(dy, cache, needs=None):
    return dy * (cache.factor > 0)


WRONG_OPS = {
    "rmsnorm_backward": [rmsnorm_with_a_constant_rms],
    "attention_backward": [attention_without_the_mask, attention_without_the_last_key,
                           attention_with_the_first_head_of_each_group],
    "rope_backward": [rope_that_turns_on],
    "embedding_backward": [embedding_that_keeps_the_last],
    "linear_backward": [linear_with_the_mean_over_rows],
    "cross_entropy_backward": [cross_entropy_with_ignored_targets, cross_entropy_without_the_divisor],
    "softmax_backward": [softmax_without_the_sum],
    "swiglu_backward": [swiglu_with_the_halves_swapped, swiglu_with_the_slope_of_a_sigmoid],
    "dropout_backward": [dropout_without_the_factor],
}


@pytest.mark.parametrize("name, wrong", [(name, wrong) for name, several in WRONG_OPS.items() for wrong in several])
def test_a_wrong_operation_is_rejected(name, wrong):
    backend = load_backend("numpy").with_ops(**{name: wrong})
    model = mut.tiny_model(backend=backend, dropout=0.3, **BAR)
    with pytest.raises(GradientError, match=r"the gradient of (model\.|lm_head).* is wrong"):
        check(model, dropout=(5, 3, 1))


# ---- mistakes in the composition

def no_residual_around_the_mlp(self, dx, cache, grads):
    first, attention, _, second, mlp, _ = cache
    dx = self.mlp_norm.backward(self.mlp.backward(dx, mlp, grads), second, grads)
    return dx + self.attention_norm.backward(self.attention.backward(dx, attention, grads), first, grads)


def no_residual_around_the_attention(self, dx, cache, grads):
    first, attention, _, second, mlp, _ = cache
    dx = dx + self.mlp_norm.backward(self.mlp.backward(dx, mlp, grads), second, grads)
    return self.attention_norm.backward(self.attention.backward(dx, attention, grads), first, grads)


def embedding_forgets_the_head(self, dy, cache, grads):
    grads[self.weight][...] = self.ops.embedding_backward(dy, cache)


def embedding_does_nothing(self, dy, cache, grads):
    pass


def keys_and_values_exchanged(self, dy, cache, grads):
    backward, heads = self.ops.attention_backward, self.key_value_heads
    qkv_cache, _, _, q_cache, k_cache, attention_cache, output_cache = cache
    dy = self._split_heads(self.output.backward(dy, output_cache, grads))
    dq, dk, dv = backward(dy, attention_cache)
    assert dk.shape[1] == heads
    dq, dv = self.ops.rope_backward(dq, q_cache), self.ops.rope_backward(dv, k_cache)
    return self.qkv.backward(self._merge_heads(np.concatenate([dq, dv, dk], axis=1)), qkv_cache, grads)


@pytest.mark.parametrize("layer, wrong", [
    (Block, no_residual_around_the_mlp), (Block, no_residual_around_the_attention),
    (Embedding, embedding_forgets_the_head), (Embedding, embedding_does_nothing),
    (Attention, keys_and_values_exchanged),
])
def test_a_wrong_composition_is_rejected(monkeypatch, layer, wrong):
    model = mut.tiny_model(**BAR)
    monkeypatch.setattr(layer, "backward", wrong)
    with pytest.raises(GradientError, match=r"the gradient of model\..* is wrong"):
        check(model)


def test_a_name_in_zero_that_is_no_parameter_is_refused():
    with pytest.raises(ValueError, match=r"zero: expected names of trainable parameters, got \['model.nrom.weight'\]"):
        gradcheck_model(mut.tiny_model(), mut.IDS, mut.TARGETS, zero=("model.nrom.weight",))


def test_a_model_that_is_all_frozen_has_nothing_to_check():
    with pytest.raises(ValueError, match="model: expected at least one trainable parameter, got none"):
        gradcheck_model(mut.tiny_model(frozen=["*"]), mut.IDS, mut.TARGETS)
