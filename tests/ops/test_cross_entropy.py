import math

import numpy as np
import pytest

TARGETS = np.array([[4, -100, 4], [0, 2, -100]])


@pytest.fixture
def logits(rng):
    return rng.normal(size=(2, 3, 5))


def test_equal_logits_cost_the_logarithm_of_the_vocabulary(ops):
    loss, _ = ops.cross_entropy_forward(np.full((2, 3, 7), 12.5), targets=np.array([[0, 1, 2], [6, 6, 3]]))
    assert loss == pytest.approx(math.log(7), rel=1e-15)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("divisor", [None, 11])
def test_it_is_the_written_out_sum(ops, logits, label_smoothing, divisor):
    total, expected_gradient = 0.0, np.zeros_like(logits)
    for position in np.ndindex(TARGETS.shape):
        if TARGETS[position] != -100:
            p = np.exp(logits[position]) / sum(np.exp(logits[position]))
            wanted = [label_smoothing / 5 + (1 - label_smoothing) * (v == TARGETS[position]) for v in range(5)]
            total -= sum(w * math.log(chance) for w, chance in zip(wanted, p, strict=True))
            expected_gradient[position] = p - wanted
    loss, cache = ops.cross_entropy_forward(logits, targets=TARGETS, label_smoothing=label_smoothing, divisor=divisor)
    assert loss == pytest.approx(total / (divisor or 4), rel=1e-14)
    dlogits = ops.cross_entropy_backward(np.array(3.0), cache)
    np.testing.assert_allclose(dlogits, 3 * expected_gradient / (divisor or 4), rtol=1e-13, atol=1e-15)


def test_what_an_ignored_position_holds_does_not_matter(ops, logits):
    loss, cache = ops.cross_entropy_forward(logits, targets=TARGETS)
    other = np.where((TARGETS == -100)[..., None], 1e3, logits)
    other_loss, other_cache = ops.cross_entropy_forward(other, targets=TARGETS)
    assert other_loss == loss
    gradient, other_gradient = (ops.cross_entropy_backward(np.array(1.0), c) for c in (cache, other_cache))
    np.testing.assert_array_equal(other_gradient, gradient)
    assert not gradient[TARGETS == -100].any()
    assert np.all(np.linalg.norm(gradient[TARGETS != -100], axis=-1) > 0.1)


def test_any_number_can_mark_what_is_ignored(ops, logits):
    loss, _ = ops.cross_entropy_forward(logits, targets=TARGETS)
    assert ops.cross_entropy_forward(logits, targets=np.where(TARGETS == -100, 3, TARGETS), ignore_index=3)[0] == loss


@pytest.mark.parametrize("divisor", [None, 5])
def test_without_a_valid_target_loss_and_gradient_are_zero(ops, logits, divisor):
    loss, cache = ops.cross_entropy_forward(logits, targets=np.full((2, 3), -100), divisor=divisor)
    assert loss == 0
    assert not ops.cross_entropy_backward(np.array(1.0), cache).any()


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_each_row_of_the_gradient_sums_to_zero(ops, logits, label_smoothing):
    _, cache = ops.cross_entropy_forward(logits, targets=TARGETS, label_smoothing=label_smoothing)
    np.testing.assert_allclose(np.sum(ops.cross_entropy_backward(np.array(1.0), cache), axis=-1), 0, atol=1e-16)


def test_parts_with_the_divisor_of_the_whole_add_up_to_it(ops, rng):
    logits, targets = rng.normal(size=(8, 5, 11)), rng.integers(0, 11, (8, 5))
    targets[rng.random((8, 5)) < 0.4] = -100
    targets[2:4] = -100                                     # one worker has nothing to learn from
    loss, cache = ops.cross_entropy_forward(logits, targets=targets)
    gradient = ops.cross_entropy_backward(np.array(1.0), cache)
    count = int(np.sum(targets != -100))
    losses, gradients = [], []
    for rows in (slice(0, 2), slice(2, 4), slice(4, 5), slice(5, 8)):
        part, cache = ops.cross_entropy_forward(logits[rows], targets=targets[rows], divisor=count)
        losses.append(part)
        gradients.append(ops.cross_entropy_backward(np.array(1.0), cache))
    assert sum(losses) == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(np.concatenate(gradients), gradient, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_very_large_logits_are_exact(ops, dtype):
    logits = np.array([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0]], dtype=dtype)
    loss, cache = ops.cross_entropy_forward(logits, targets=np.array([0, 1]))
    assert loss == 1e4                                      # surprised by 0 and by 20,000 nats
    dlogits = ops.cross_entropy_backward(np.array(1.0, dtype=dtype), cache)
    np.testing.assert_array_equal(dlogits, [[0, 0, 0], [0.5, -0.5, 0]])


@pytest.mark.parametrize("op", ["cross_entropy", "mse", "binary_cross_entropy"])
@pytest.mark.parametrize("divisor", [11, 11.0, np.int64(11), np.float64(11), np.array(11)], ids=repr)
def test_the_kind_of_the_divisor_does_not_widen_float32(ops, op, divisor):
    x = np.ones((2, 3), dtype=np.float32)
    targets = np.array([0, 2]) if op == "cross_entropy" else np.zeros_like(x)
    loss, cache = getattr(ops, f"{op}_forward")(x, targets=targets, divisor=divisor)
    gradient = getattr(ops, f"{op}_backward")(np.ones_like(loss), cache)
    assert (loss.dtype, gradient.dtype) == (np.float32, np.float32)


def test_targets_must_be_integers(ops, logits):
    with pytest.raises(TypeError, match="targets: expected integers, got an array of float64"):
        ops.cross_entropy_forward(logits, targets=TARGETS.astype(float))
