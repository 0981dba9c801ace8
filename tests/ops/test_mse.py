import numpy as np
import pytest


def test_known_values(ops):
    loss, cache = ops.mse_forward(np.array([1.0, 2.0, 4.0]), targets=np.array([1.0, 0.0, 1.0]))
    assert loss == pytest.approx((0 + 4 + 9) / 3, rel=1e-15)
    np.testing.assert_allclose(ops.mse_backward(np.array(3.0), cache), [0.0, 4.0, 6.0], rtol=1e-15)


def test_parts_with_the_divisor_of_the_whole_add_up_to_it(ops, rng):
    x, targets = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    loss, cache = ops.mse_forward(x, targets=targets)
    parts = [ops.mse_forward(x[rows], targets=targets[rows], divisor=15) for rows in (slice(0, 1), slice(1, 5))]
    assert sum(part for part, _ in parts) == pytest.approx(loss, rel=1e-12)
    gradients = [ops.mse_backward(np.array(1.0), part_cache) for _, part_cache in parts]
    np.testing.assert_allclose(np.concatenate(gradients), ops.mse_backward(np.array(1.0), cache), rtol=1e-12)
