"""AdamW over the flat buffer, against a loop over single numbers and against PyTorch."""

import importlib.util
import math

import numpy as np
import pytest
from models_under_test import IDS, TARGETS, copies, tiny_model

from tinyllama.training import AdamW

SETTINGS = {"learning_rate": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.3, "eps": 1e-3}
BIASES = {"attention_bias": True, "mlp_bias": True}


def scalar_adamw(weight, gradients, *, decays, learning_rate, betas, eps, weight_decay):
    """One weight, a Python float, after one step for each of its gradients."""
    m = v = 0.0
    for step, g in enumerate(gradients, start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        m_hat, v_hat = m / (1 - betas[0]**step), v / (1 - betas[1]**step)
        if decays:
            weight -= learning_rate * weight_decay * weight
        weight -= learning_rate * m_hat / (math.sqrt(v_hat) + eps)
    return weight


def batches(steps):
    """Other ids in every step, so that the gradients differ in direction and length."""
    return [((IDS + step) % 13, np.where(TARGETS == -100, -100, (TARGETS * step) % 13)) for step in range(steps)]


def length(arrays):
    """The Euclidean length of several arrays together."""
    return math.sqrt(sum(float(np.sum(array**2)) for array in arrays))


def padding(model):
    """Which elements of the flat buffer belong to no parameter."""
    buffer, views = model.parameters.new_gradients()
    for name in views:
        views[name][...] = 1
    return buffer == 0


def test_six_steps_equal_a_loop_over_single_weights():
    model = tiny_model(**BIASES)
    optimizer = AdamW(model, **SETTINGS)
    start = copies(model.parameters)
    clip, norms, clipped = 1.3, [], []
    for ids, targets in batches(6):
        _, grads = model.loss_and_grads(ids, targets)
        norms.append(length(grads.values()))
        clipped.append({name: grad * min(1.0, clip / (norms[-1] + 1e-6)) for name, grad in grads.items()})
        assert float(optimizer.step(max_grad_norm=clip)) == pytest.approx(norms[-1], rel=1e-12)
    assert min(norms) < clip < max(norms)       # some steps are clipped and some are not
    for name, weight in start.items():
        histories = zip(weight.flat, *(grads[name].flat for grads in clipped), strict=True)
        expected = [scalar_adamw(first, history, decays=weight.ndim == 2, **SETTINGS) for first, *history in histories]
        np.testing.assert_allclose(model.parameters[name].flat, expected, rtol=1e-10, atol=1e-12, err_msg=name)


def test_ten_steps_equal_pytorch():
    if importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed.")
    import torch

    model = tiny_model(**BIASES)
    optimizer = AdamW(model, **SETTINGS)
    theirs = {name: torch.tensor(array.copy(), requires_grad=True) for name, array in model.parameters.items()}
    their_optimizer = torch.optim.AdamW(
        [{"params": [p for p in theirs.values() if p.ndim == 2], "weight_decay": SETTINGS["weight_decay"]},
         {"params": [p for p in theirs.values() if p.ndim == 1], "weight_decay": 0.0}],
        lr=SETTINGS["learning_rate"], betas=SETTINGS["betas"], eps=SETTINGS["eps"])
    for ids, targets in batches(10):
        _, grads = model.loss_and_grads(ids, targets)
        for name, parameter in theirs.items():
            parameter.grad = torch.tensor(grads[name].copy())
        their_norm = torch.nn.utils.clip_grad_norm_(list(theirs.values()), 1.3)
        their_optimizer.step()
        assert float(optimizer.step(max_grad_norm=1.3)) == pytest.approx(float(their_norm), rel=1e-10)
        for name, parameter in theirs.items():
            np.testing.assert_allclose(model.parameters[name], parameter.detach().numpy(), rtol=1e-10, atol=1e-10,
                                       err_msg=name)


def test_the_first_step_moves_every_weight_by_the_learning_rate(backend):
    # Because of the bias corrections m and sqrt(v) are both |gradient|, however small it is.
    model = tiny_model(backend=backend)
    optimizer = AdamW(model, learning_rate=0.01, weight_decay=0.0, eps=1e-30)
    before = {name: backend.to_numpy(array).copy() for name, array in model.parameters.items()}
    _, grads = model.loss_and_grads(IDS, TARGETS)
    optimizer.step()
    for name, weight in model.parameters.items():
        expected = before[name] - 0.01 * np.sign(backend.to_numpy(grads[name]))
        np.testing.assert_allclose(backend.to_numpy(weight), expected, rtol=0, atol=1e-12, err_msg=name)


def test_decay_alone_shrinks_the_matrices_and_nothing_else():
    model = tiny_model(**BIASES)
    optimizer = AdamW(model, learning_rate=0.1, weight_decay=0.5)
    before = copies(model.parameters)
    model.loss_and_grads(IDS, TARGETS)
    model.gradient[...] = 0
    optimizer.step()
    assert {weight.ndim for weight in before.values()} == {1, 2}
    for name, weight in before.items():
        expected = weight * (1 - 0.1 * 0.5) if weight.ndim == 2 else weight
        np.testing.assert_allclose(model.parameters[name], expected, rtol=1e-14, err_msg=name)


@pytest.mark.parametrize("max_grad_norm", [None, 1e-3, 1e3, math.inf])
def test_the_norm_is_that_before_clipping_and_the_gradient_is_left_alone(max_grad_norm):
    model = tiny_model()
    _, grads = model.loss_and_grads(IDS, TARGETS)
    before = copies(grads)
    norm = AdamW(model).step(max_grad_norm=max_grad_norm)
    assert norm.shape == ()
    assert float(norm) == pytest.approx(length(before.values()), rel=1e-12)
    for name in before:
        np.testing.assert_array_equal(grads[name], before[name])


def test_a_gradient_shorter_than_the_limit_is_not_stretched():
    stepped = []
    for max_grad_norm in (None, 1e6, math.inf):
        model = tiny_model()
        model.loss_and_grads(IDS, TARGETS)
        AdamW(model, eps=1e-3).step(max_grad_norm=max_grad_norm)
        stepped.append(model.parameters.trainable.copy())
    np.testing.assert_array_equal(stepped[0], stepped[1])
    np.testing.assert_array_equal(stepped[0], stepped[2])


def test_the_padding_of_the_flat_buffers_stays_zero():
    model = tiny_model(hidden_size=12, head_dim=6)      # 12 numbers leave a gap before the next multiple of 64 bytes
    optimizer = AdamW(model, weight_decay=0.5)
    empty = padding(model)
    assert empty.any()
    for ids, targets in batches(3):
        model.loss_and_grads(ids, targets)
        optimizer.step(max_grad_norm=0.5)
    assert not model.parameters.trainable[empty].any()
    assert not model.gradient[empty].any()


def test_the_learning_rate_may_change_between_steps():
    model = tiny_model()
    optimizer = AdamW(model, learning_rate=0.01, weight_decay=0.2)
    moves = []
    for learning_rate in (0.01, 0.0, 0.03):
        optimizer.learning_rate = learning_rate
        model.loss_and_grads(IDS, TARGETS)
        before = model.parameters.trainable.copy()
        optimizer.step()
        moves.append(np.max(np.abs(model.parameters.trainable - before)))
    assert moves[1] == 0.0
    assert moves[2] > 2 * moves[0] > 0


def test_frozen_weights_stay_and_the_others_move():
    model = tiny_model(frozen=("model.layers.0.*", "model.norm.weight"))
    before = copies(model.parameters)
    optimizer = AdamW(model)
    for ids, targets in batches(2):
        model.loss_and_grads(ids, targets)
        optimizer.step()
    for name, weight in model.parameters.items():
        is_frozen = name.startswith("model.layers.0.") or name == "model.norm.weight"
        assert np.array_equal(weight, before[name]) == is_frozen, name


def test_float32_stays_float32():
    model = tiny_model(dtype="float32")
    model.loss_and_grads(IDS, TARGETS)
    norm = AdamW(model).step(max_grad_norm=0.1)
    assert norm.dtype == model.parameters.trainable.dtype == np.float32


def test_a_step_without_a_gradient_is_refused():
    model = tiny_model()
    before = model.parameters.trainable.copy()
    optimizer = AdamW(model)
    with pytest.raises(ValueError, match=r"step: expected a gradient .* got none yet"):
        optimizer.step()
    np.testing.assert_array_equal(model.parameters.trainable, before)
    assert optimizer.steps == 0


@pytest.mark.parametrize("max_grad_norm", [0, -1.0, math.nan])
def test_a_limit_that_is_none_is_refused_and_changes_nothing(max_grad_norm):
    model = tiny_model()
    model.loss_and_grads(IDS, TARGETS)
    before, optimizer = model.parameters.trainable.copy(), AdamW(model)
    with pytest.raises(ValueError, match="max_grad_norm: expected a number above 0, or None, got"):
        optimizer.step(max_grad_norm=max_grad_norm)
    np.testing.assert_array_equal(model.parameters.trainable, before)
    assert optimizer.steps == 0


@pytest.mark.parametrize(("settings", "message"), [
    ({"learning_rate": -1e-3}, "learning_rate: expected at least 0, got -0.001"),
    ({"learning_rate": math.nan}, "learning_rate: expected at least 0, got nan"),
    ({"betas": (0.9, 1.0)}, r"betas: expected two numbers, 0 <= beta < 1, got \(0.9, 1.0\)"),
    ({"betas": (-0.1, 0.9)}, "betas: expected two numbers"),
    ({"betas": (0.9,)}, r"betas: expected two numbers, 0 <= beta < 1, got \(0.9,\)"),
    ({"betas": 0.9}, "betas: expected two numbers, 0 <= beta < 1, got 0.9"),
    ({"weight_decay": -0.1}, "weight_decay: expected at least 0, got -0.1"),
    ({"eps": 0.0}, "eps: expected above 0, got 0.0"),
])
def test_settings_out_of_their_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AdamW(tiny_model(), **settings)
