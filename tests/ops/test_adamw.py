import functools
import math

import numpy as np
import pytest

HYPERPARAMETERS = {"learning_rate": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def run(backend, weight, gradients, *, first_step=1, **settings):
    """The weights, m and v after a step for each gradient."""
    weight, m, v = backend.asarray(weight.copy()), *(backend.asarray(np.zeros_like(weight)) for _ in range(2))
    for step, gradient in enumerate(gradients, start=first_step):
        returned = backend.adamw_step(weight, backend.asarray(gradient), m, v, step=step, **HYPERPARAMETERS | settings)
        assert returned is None
    return tuple(map(backend.to_numpy, (weight, m, v)))


def scalar_adamw(weight, gradients, *, learning_rate, betas, eps, weight_decay, l2=0.0, gradient_scale=1.0):
    """Algorithm 2 of Loshchilov & Hutter for one weight."""
    m = v = 0.0
    for t, gradient in enumerate(gradients, start=1):
        g = gradient * gradient_scale + l2 * weight
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        m_hat, v_hat = m / (1 - betas[0]**t), v / (1 - betas[1]**t)
        weight = weight - learning_rate * (m_hat / (math.sqrt(v_hat) + eps) + weight_decay * weight)
    return weight, m, v


@pytest.fixture
def problem(rng):
    return rng.normal(size=7), rng.normal(size=(5, 7))


def check(backend, problem, settings):
    """Compare five steps with the published algorithm, for every weight."""
    received = run(backend, *problem, **settings)
    expected = np.array([scalar_adamw(w, g, **HYPERPARAMETERS | settings) for w, g in zip(problem[0], problem[1].T,
                                                                                          strict=True)]).T
    np.testing.assert_allclose(received, expected, rtol=1e-13)


@pytest.mark.parametrize("settings", [
    {}, {"weight_decay": 0.0}, {"gradient_scale": 0.3}, {"betas": (0.0, 0.999)}, {"eps": 0.1}, {"l2": 0.7},
    {"l2": 0.7, "gradient_scale": 0.3}], ids=str)
def test_it_is_the_published_algorithm(backend, problem, settings):
    check(backend, problem, settings)


def l2_after_the_moments(op, weight, gradient, m, v, *, l2, **settings):
    """L2 that is decoupled after all."""
    op(weight, gradient, m, v, **settings | {"weight_decay": settings["weight_decay"] + l2})


def l2_clipped(op, weight, gradient, m, v, *, l2, gradient_scale=1.0, **settings):
    """L2 that is scaled down together with the gradient."""
    op(weight, gradient + l2 * weight, m, v, gradient_scale=gradient_scale, **settings)


def decay_before_the_gradient(op, weight, gradient, m, v, *, weight_decay, l2, **settings):
    """Decoupled decay that enters the moments after all."""
    op(weight, gradient, m, v, weight_decay=0.0, l2=l2 + weight_decay, **settings)


@pytest.mark.parametrize("wrong", [l2_after_the_moments, l2_clipped, decay_before_the_gradient])
def test_a_wrong_place_for_l2_or_decay_is_found(backend, problem, wrong):
    broken = backend.with_ops(adamw_step=functools.partial(wrong, backend.adamw_step))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check(broken, problem, {"l2": 0.7, "gradient_scale": 0.3})


def test_it_agrees_with_pytorch(backend, problem):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed.")
    weight, gradients = problem
    parameter = torch.nn.Parameter(torch.tensor(weight))
    optimizer = torch.optim.AdamW([parameter], lr=3e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    np.testing.assert_allclose(run(backend, weight, gradients)[0], parameter.detach().numpy(), rtol=1e-13)


def test_with_l2_and_without_decay_it_is_the_adam_of_pytorch(backend, problem):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed.")
    weight, gradients = problem
    parameter = torch.nn.Parameter(torch.tensor(weight))
    optimizer = torch.optim.Adam([parameter], lr=3e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.7)   # L2, in Adam
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    received, _, _ = run(backend, weight, gradients, l2=0.7, weight_decay=0.0)
    np.testing.assert_allclose(received, parameter.detach().numpy(), rtol=1e-13)


def test_l2_hardly_reaches_a_weight_whose_gradients_are_large(backend):
    """Two equal weights, two histories of gradients that change their sign: the decay is the same, L2 is not."""
    gradients = np.array([[1e3, 0.1], [-1e3, -0.1]] * 50)
    start = np.array([1.0, 1.0])

    def shrunk(**settings):
        return start - run(backend, start, gradients, **{"weight_decay": 0.0} | settings)[0]

    without = shrunk()
    decay, l2 = shrunk(weight_decay=0.1) - without, shrunk(l2=0.1) - without
    assert decay[0] == pytest.approx(decay[1], rel=0.01)
    assert 0 < l2[0] < l2[1] / 100


def test_the_gradient_is_read_and_not_written(backend, problem):
    weight, gradients = problem
    kept = gradients.copy()
    run(backend, weight, gradients, gradient_scale=0.5, l2=0.1)
    run(backend, weight, gradients, l2=0.1)
    np.testing.assert_array_equal(gradients, kept)


def test_the_first_step_is_the_learning_rate_against_the_sign_of_the_gradient(backend):
    weight, _, _ = run(backend, np.zeros(3), np.array([[1e-3, -5.0, 1e3]]), eps=0.0, weight_decay=0.0)
    np.testing.assert_allclose(weight, [-3e-3, 3e-3, -3e-3], rtol=1e-12)


def test_decay_is_decoupled_from_the_gradient(backend):
    """Without a gradient the weights shrink by learning_rate · weight_decay, and the moments stay empty."""
    weight, m, v = run(backend, np.array([2.0, -1.0]), np.zeros((1, 2)))
    np.testing.assert_allclose(weight, np.array([2.0, -1.0]) * (1 - 3e-4), rtol=1e-15)
    assert not m.any()
    assert not v.any()


def test_a_scale_of_no_dimension_is_a_number(backend, problem):
    scale = backend.asarray(np.array(0.3))
    for received, expected in zip(run(backend, *problem, gradient_scale=scale),
                                  run(backend, *problem, gradient_scale=0.3), strict=True):
        np.testing.assert_allclose(received, expected, rtol=1e-15)


def test_float32_stays_float32_and_close(backend, problem):
    weight, gradients = problem
    single = run(backend, weight.astype(np.float32), gradients.astype(np.float32), l2=0.3)
    assert all(array.dtype == np.float32 for array in single)
    np.testing.assert_allclose(single[0], run(backend, weight, gradients, l2=0.3)[0], rtol=1e-5)


def test_it_writes_to_a_slice_of_a_larger_buffer(backend, problem):
    """One flat buffer holds all weights; those that decay are a slice of it."""
    weight, gradients = problem
    buffer = backend.zeros(10, np.float64)
    buffer[2:9] = backend.asarray(weight)
    m, v = backend.zeros(7, np.float64), backend.zeros(7, np.float64)
    backend.adamw_step(buffer[2:9], backend.asarray(gradients[0]), m, v, step=1, **HYPERPARAMETERS)
    received = backend.to_numpy(buffer)
    np.testing.assert_array_equal(received[2:9], run(backend, weight, gradients[:1])[0])
    assert not received[[0, 1, 9]].any()


def test_global_norm_is_the_euclidean_length(ops, rng):
    assert ops.global_norm(np.array([3.0, 0.0, -4.0])) == 5
    gradient = rng.normal(size=1000).astype(np.float32)
    norm = ops.global_norm(gradient)
    assert norm.dtype == np.float32
    assert norm == pytest.approx(math.sqrt(math.fsum(float(g)**2 for g in gradient)), rel=1e-6)
    assert ops.global_norm(np.zeros(0)) == 0
