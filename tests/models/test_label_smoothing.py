"""A part of every target spread over all tokens: loss and gradients of the whole model."""

import math

import models_under_test as mut
import numpy as np
import pytest

from tinyllama.backends import load_backend
from tinyllama.gradients import GradientError, gradcheck_model

CONFIGS = {"plain": {}, "tied": {"tie_word_embeddings": True}, "dropout": {"dropout": 0.3}}


def smoothed_loss(logits, targets, smoothing):
    """By its definition, a row at a time: the cross-entropy with 1 - s on the target and s / V on every token."""
    losses = []
    for row, target in zip(logits.reshape(-1, logits.shape[-1]), targets.flat, strict=True):
        if target != -100:
            wanted = np.full(len(row), smoothing / len(row))
            wanted[target] += 1 - smoothing
            losses.append(-np.sum(wanted * (row - np.log(np.sum(np.exp(row))))))
    return np.mean(losses)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7, 1.0])
def test_the_loss_is_the_cross_entropy_with_a_smoothed_target(smoothing):
    model = mut.tiny_model()
    expected = smoothed_loss(model.logits(mut.IDS), mut.TARGETS, smoothing)
    assert float(model.loss(mut.IDS, mut.TARGETS, label_smoothing=smoothing)) == pytest.approx(expected, rel=1e-12)
    loss, _ = model.loss_and_grads(mut.IDS, mut.TARGETS, label_smoothing=smoothing)
    assert float(loss) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.1, 0.7])
def test_loss_and_gradient_are_those_of_pytorch(smoothing):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed.")
    calls = []
    model = mut.tiny_model(backend=mut.spying(calls, "cross_entropy_backward"))
    loss, _ = model.loss_and_grads(mut.IDS, mut.TARGETS, label_smoothing=smoothing)
    logits = torch.tensor(model.logits(mut.IDS).reshape(-1, 13), requires_grad=True)
    their_loss = torch.nn.functional.cross_entropy(logits, torch.tensor(mut.TARGETS.reshape(-1)),
                                                   label_smoothing=smoothing)
    their_loss.backward()
    assert float(loss) == pytest.approx(their_loss.item(), rel=1e-12)
    (_, _, _, dlogits), = calls
    np.testing.assert_allclose(dlogits.reshape(-1, 13), logits.grad.numpy(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("smoothing", [0.1, 0.7])
@pytest.mark.parametrize("config", CONFIGS)
def test_every_gradient_agrees_with_differences(config, smoothing):
    model = mut.tiny_model(**CONFIGS[config])
    settings = {"dropout": (5, 3, 1)} if config == "dropout" else {"divisor": 9}
    report = gradcheck_model(model, mut.IDS, mut.TARGETS, label_smoothing=smoothing, tolerance=1e-6, **settings)
    assert report.error <= 1e-6
    assert all(row.norm > 1e-3 for row in report.rows)


@pytest.mark.parametrize("wrong", [{"label_smoothing": 0.0}, {"label_smoothing": 0.3}], ids=["none", "too much"])
def test_a_backward_with_another_smoothing_is_found(wrong):
    backend = load_backend("numpy")
    broken = backend.with_ops(cross_entropy_backward=lambda dloss, cache: backend.cross_entropy_backward(
        dloss, cache._replace(**wrong)))
    with pytest.raises(GradientError):
        gradcheck_model(mut.tiny_model(backend=broken), mut.IDS, mut.TARGETS, label_smoothing=0.1)


def test_parts_and_workers_add_up():
    whole, model = mut.tiny_model(), mut.tiny_model(workers=2)
    loss, grads = whole.loss_and_grads(mut.IDS, mut.TARGETS, label_smoothing=0.2)
    valid, losses = int(np.count_nonzero(mut.TARGETS != -100)), []
    for part in (slice(0, 1), slice(1, 3)):
        part_loss, received = model.loss_and_grads(mut.IDS[part], mut.TARGETS[part], valid, part.start > 0,
                                                   label_smoothing=0.2)
        losses.append(part_loss)
    assert float(sum(losses)) == pytest.approx(float(loss), abs=1e-12)
    mut.assert_same_gradients(received, grads)


def test_float32_stays_float32_with_a_number_of_numpy():
    model = mut.tiny_model(dtype="float32")
    loss, _ = model.loss_and_grads(mut.IDS, mut.TARGETS, label_smoothing=np.float64(0.1))
    assert loss.dtype == model.loss(mut.IDS, mut.TARGETS, label_smoothing=np.float64(0.1)).dtype == np.float32
    assert float(loss) == float(model.loss_and_grads(mut.IDS, mut.TARGETS, label_smoothing=0.1)[0])


@pytest.mark.parametrize("smoothing", [-0.1, 1.1, math.nan])
def test_out_of_its_range_it_is_refused_before_anything_changes(smoothing):
    model = mut.tiny_model(workers=2)
    _, grads = model.loss_and_grads(mut.IDS, mut.TARGETS)
    before = mut.copies(grads)
    for call in (model.loss, model.loss_and_grads):
        with pytest.raises(ValueError, match="label_smoothing: expected 0 <= label_smoothing <= 1, got"):
            call(mut.IDS, mut.TARGETS, label_smoothing=smoothing)
    mut.assert_same_gradients(grads, before, tolerance=0)
