"""The SGD update against its formula with single numbers, against PyTorch, and against versions that are wrong."""

import numpy as np
import pytest
import strict_device

HYPERPARAMETERS = {"learning_rate": 3e-2, "momentum": 0.8, "weight_decay": 0.1}
SETTINGS = [{}, {"weight_decay": 0.0}, {"momentum": 0.0}, {"gradient_scale": 0.3}, {"l2": 0.7},
            {"l2": 0.7, "gradient_scale": 0.3, "weight_decay": 0.0}]


def run(backend, weight, gradients, **settings):
    """The weights and the velocity after a step for each gradient."""
    weight, velocity = backend.asarray(weight.copy()), backend.asarray(np.zeros_like(weight))
    for gradient in gradients:
        returned = backend.sgd_step(weight, backend.asarray(gradient), velocity, **HYPERPARAMETERS | settings)
        assert returned is None
    return backend.to_numpy(weight), backend.to_numpy(velocity)


def scalar_sgd(weight, gradients, *, learning_rate, momentum, weight_decay, l2=0.0, gradient_scale=1.0):
    """One weight. Its velocity is written out as the sum over all earlier steps, each weighed by its age."""
    seen = []
    for gradient in gradients:
        seen.append(gradient_scale * gradient + l2 * weight)
        velocity = sum(momentum**age * g for age, g in enumerate(reversed(seen)))
        weight = weight - learning_rate * weight_decay * weight - learning_rate * velocity
    return weight, velocity


def check(backend, problem, settings):
    """Compare five steps with the formula, for every weight."""
    expected = np.array([scalar_sgd(w, g, **HYPERPARAMETERS | settings)
                         for w, g in zip(problem[0], problem[1].T, strict=True)]).T
    np.testing.assert_allclose(run(backend, *problem, **settings), expected, rtol=1e-13)


@pytest.fixture
def problem(rng):
    return rng.normal(size=7), rng.normal(size=(5, 7))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_it_is_the_formula(backend, problem, settings):
    check(backend, problem, settings)


def decays_through_the_velocity(w, g, v, *, learning_rate, momentum, weight_decay, l2=0.0, gradient_scale=1.0):
    v[...] = momentum * v + gradient_scale * g + (l2 + weight_decay) * w
    w -= learning_rate * v


def adds_l2_after_the_velocity(w, g, v, *, learning_rate, momentum, weight_decay, l2=0.0, gradient_scale=1.0):
    v[...] = momentum * v + gradient_scale * g
    w -= learning_rate * ((weight_decay + l2) * w + v)


def scales_l2_with_the_gradient(w, g, v, *, learning_rate, momentum, weight_decay, l2=0.0, gradient_scale=1.0):
    v[...] = momentum * v + gradient_scale * (g + l2 * w)
    w -= learning_rate * (weight_decay * w + v)


def forgets_the_history(w, g, v, *, learning_rate, momentum, weight_decay, l2=0.0, gradient_scale=1.0):
    v[...] = momentum * (gradient_scale * g + l2 * w)
    w -= learning_rate * (weight_decay * w + v)


def averages_the_gradients(w, g, v, *, learning_rate, momentum, weight_decay, l2=0.0, gradient_scale=1.0):
    v[...] = momentum * v + (1 - momentum) * (gradient_scale * g + l2 * w)
    w -= learning_rate * (weight_decay * w + v)


def looks_ahead(w, g, v, *, learning_rate, momentum, weight_decay, l2=0.0, gradient_scale=1.0):
    step = gradient_scale * g + l2 * w
    v[...] = momentum * v + step
    w -= learning_rate * (weight_decay * w + step + momentum * v)       # Nesterov's


@pytest.mark.parametrize("wrong", [decays_through_the_velocity, adds_l2_after_the_velocity, scales_l2_with_the_gradient,
                                   forgets_the_history, averages_the_gradients, looks_ahead])
def test_a_wrong_version_is_found(backend, problem, wrong):
    broken = backend.with_ops(sgd_step=wrong)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        for settings in SETTINGS:
            check(broken, problem, settings)


@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_it_agrees_with_pytorch(backend, problem, momentum, l2):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed.")
    weight, gradients = problem
    parameter = torch.nn.Parameter(torch.tensor(weight))
    optimizer = torch.optim.SGD([parameter], lr=3e-2, momentum=momentum, weight_decay=l2)       # their decay is L2
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    received, _ = run(backend, weight, gradients, momentum=momentum, l2=l2, weight_decay=0.0)
    np.testing.assert_allclose(received, parameter.detach().numpy(), rtol=1e-13)


def test_without_momentum_l2_and_decay_are_the_same_and_with_it_they_are_not(backend, problem):
    def weights(**settings):
        return run(backend, *problem, **{"l2": 0.0, "weight_decay": 0.0} | settings)[0]

    np.testing.assert_allclose(weights(momentum=0.0, l2=0.7), weights(momentum=0.0, weight_decay=0.7), rtol=1e-13)
    assert not np.allclose(weights(l2=0.7), weights(weight_decay=0.7), rtol=1e-3)


def test_the_gradient_is_read_and_not_written(backend, problem):
    weight, gradients = problem
    kept = gradients.copy()
    run(backend, weight, gradients, gradient_scale=0.5, l2=0.2)
    run(backend, weight, gradients, l2=0.2)
    np.testing.assert_array_equal(gradients, kept)


def test_a_new_learning_rate_takes_hold_at_once(backend):
    """With a rate of 0 the weights rest, though the velocity does not."""
    weight, velocity = backend.asarray(np.array([2.0])), backend.asarray(np.array([5.0]))
    backend.sgd_step(weight, backend.asarray(np.array([1.0])), velocity, learning_rate=0.0, momentum=0.5,
                     weight_decay=0.1)
    assert backend.to_numpy(weight)[0] == 2.0
    assert backend.to_numpy(velocity)[0] == 3.5


def test_a_scale_of_no_dimension_is_a_number(backend, problem):
    scale = backend.asarray(np.array(0.3))
    for received, expected in zip(run(backend, *problem, gradient_scale=scale, l2=0.1),
                                  run(backend, *problem, gradient_scale=0.3, l2=0.1), strict=True):
        np.testing.assert_allclose(received, expected, rtol=1e-15)


def test_float32_stays_float32_and_close(backend, problem):
    weight, gradients = problem
    single = run(backend, weight.astype(np.float32), gradients.astype(np.float32), l2=0.3)
    assert all(array.dtype == np.float32 for array in single)
    np.testing.assert_allclose(single[0], run(backend, weight, gradients, l2=0.3)[0], rtol=1e-5)


def test_it_writes_to_a_slice_of_a_larger_buffer(backend, problem):
    weight, gradients = problem
    buffer, velocity = backend.zeros(10, np.float64), backend.zeros(7, np.float64)
    buffer[2:9] = backend.asarray(weight)
    backend.sgd_step(buffer[2:9], backend.asarray(gradients[0]), velocity, **HYPERPARAMETERS)
    received = backend.to_numpy(buffer)
    np.testing.assert_array_equal(received[2:9], run(backend, weight, gradients[:1])[0])
    assert not received[[0, 1, 9]].any()


def test_on_a_device_it_computes_the_same_and_transfers_nothing(backend, problem):
    device = strict_device.backend()
    weight, gradient, velocity = map(strict_device.asarray, (problem[0], problem[1][0], np.zeros(7)))
    scale = strict_device.asarray(np.array(0.3))
    with strict_device.counted() as transfers:
        device.sgd_step(weight, gradient, velocity, l2=0.2, gradient_scale=scale, **HYPERPARAMETERS)
    assert transfers == strict_device.Transfers(uploads=0, downloads=0)
    expected = run(backend, problem[0], problem[1][:1], l2=0.2, gradient_scale=0.3)
    np.testing.assert_allclose((weight.get(), velocity.get()), expected, rtol=1e-15)
