"""AdamW and SGD over the flat buffer, against a loop over single numbers and against PyTorch."""

import math

import numpy as np
import pytest
import strict_device
from models_under_test import IDS, TARGETS, copies, tiny_config, tiny_model

from tinyllama.backends import load_backend
from tinyllama.models import Llama
from tinyllama.training import SGD, AdamW

EVERY_OPTIMIZER = pytest.mark.parametrize("optimizer_class", [AdamW, SGD])
SETTINGS = {"learning_rate": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.3, "eps": 1e-3}
BIASES = {"attention_bias": True, "mlp_bias": True}


def scalar_adamw(weight, gradients, *, decays, learning_rate, betas, eps, weight_decay, l2=0.0):
    """One weight, a Python float, after one step for each of its gradients."""
    m = v = 0.0
    for step, g in enumerate(gradients, start=1):
        if decays:
            g = g + l2 * weight
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


def scalar_sgd(weight, gradients, *, decays, learning_rate, momentum, weight_decay, l2):
    """The same by SGD."""
    velocity = 0.0
    for g in gradients:
        velocity = momentum * velocity + g + (l2 * weight if decays else 0.0)
        if decays:
            weight -= learning_rate * weight_decay * weight
        weight -= learning_rate * velocity
    return weight


def check_six_steps(optimizer_class, scalar, settings, **ops):
    """Compare an optimizer, perhaps with `ops` that are wrong, with a loop over single weights."""
    model = tiny_model(backend=load_backend("numpy").with_ops(**ops), **BIASES)
    optimizer = optimizer_class(model, **settings)
    start = copies(model.parameters)
    clip, norms, clipped = 1.9, [], []
    for ids, targets in batches(6):
        _, grads = model.loss_and_grads(ids, targets)
        norms.append(length(grads.values()))
        clipped.append({name: grad * min(1.0, clip / (norms[-1] + 1e-6)) for name, grad in grads.items()})
        assert float(optimizer.step(max_grad_norm=clip)) == pytest.approx(norms[-1], rel=1e-12)
    assert min(norms) < clip < max(norms)       # some steps are clipped and some are not
    for name, weight in start.items():
        histories = zip(weight.flat, *(grads[name].flat for grads in clipped), strict=True)
        expected = [scalar(first, history, decays=weight.ndim == 2, **settings) for first, *history in histories]
        np.testing.assert_allclose(model.parameters[name].flat, expected, rtol=1e-10, atol=1e-12, err_msg=name)


SIX_STEPS = {
    "AdamW": (AdamW, scalar_adamw, SETTINGS),
    "AdamW with L2": (AdamW, scalar_adamw, SETTINGS | {"l2": 0.4}),
    "SGD": (SGD, scalar_sgd, {"learning_rate": 0.05, "momentum": 0.7, "weight_decay": 0.3, "l2": 0.0}),
    "SGD with L2": (SGD, scalar_sgd, {"learning_rate": 0.05, "momentum": 0.7, "weight_decay": 0.3, "l2": 0.4}),
    "SGD without momentum": (SGD, scalar_sgd, {"learning_rate": 0.05, "momentum": 0.0, "weight_decay": 0.3, "l2": 0.0}),
}


@pytest.mark.parametrize("label", SIX_STEPS)
def test_six_steps_equal_a_loop_over_single_weights(label):
    check_six_steps(*SIX_STEPS[label])


def always(**changed):
    """{name of the update: the update, which takes `changed` for what it is given}."""
    backend = load_backend("numpy")

    def wrong(update):
        return lambda *arrays, **settings: update(*arrays, **settings | changed)

    return {"adamw_step": wrong(backend.adamw_step), "sgd_step": wrong(backend.sgd_step)}


@pytest.mark.parametrize("label", ["AdamW with L2", "SGD with L2"])
@pytest.mark.parametrize("changed", [{"weight_decay": 0.3}, {"l2": 0.4}, {"gradient_scale": 1.0}],
                         ids=["norms decay", "norms have L2", "no clipping"])
def test_an_optimizer_that_does_not_tell_norms_from_matrices_or_does_not_clip_is_found(label, changed):
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_six_steps(*SIX_STEPS[label], **always(**changed))


THEIRS = {      # what PyTorch calls weight_decay is L2, but in AdamW
    "AdamW": (lambda model: AdamW(model, **SETTINGS), lambda torch, groups: torch.optim.AdamW(
        groups, lr=SETTINGS["learning_rate"], betas=SETTINGS["betas"], eps=SETTINGS["eps"])),
    "Adam": (lambda model: AdamW(model, **SETTINGS | {"weight_decay": 0.0, "l2": 0.3}), lambda torch, groups:
             torch.optim.Adam(groups, lr=SETTINGS["learning_rate"], betas=SETTINGS["betas"], eps=SETTINGS["eps"])),
    "SGD": (lambda model: SGD(model, 0.05, momentum=0.7, l2=0.3),
            lambda torch, groups: torch.optim.SGD(groups, lr=0.05, momentum=0.7)),
}


@pytest.mark.parametrize("label", THEIRS)
def test_ten_steps_equal_pytorch(label):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed.")
    model = tiny_model(**BIASES)
    make_ours, make_theirs = THEIRS[label]
    optimizer = make_ours(model)
    theirs = {name: torch.tensor(array.copy(), requires_grad=True) for name, array in model.parameters.items()}
    their_optimizer = make_theirs(torch, [{"params": [p for p in theirs.values() if p.ndim == 2], "weight_decay": 0.3},
                                          {"params": [p for p in theirs.values() if p.ndim == 1], "weight_decay": 0.0}])
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


@EVERY_OPTIMIZER
def test_decay_alone_shrinks_the_matrices_and_nothing_else(optimizer_class):
    model = tiny_model(**BIASES)
    optimizer = optimizer_class(model, learning_rate=0.1, weight_decay=0.5)
    before = copies(model.parameters)
    model.loss_and_grads(IDS, TARGETS)
    model.gradient[...] = 0
    optimizer.step()
    assert {weight.ndim for weight in before.values()} == {1, 2}
    for name, weight in before.items():
        expected = weight * (1 - 0.1 * 0.5) if weight.ndim == 2 else weight
        np.testing.assert_allclose(model.parameters[name], expected, rtol=1e-14, err_msg=name)


@EVERY_OPTIMIZER
def test_l2_alone_moves_the_matrices_and_nothing_else(optimizer_class):
    model = tiny_model(**BIASES)
    optimizer = optimizer_class(model, learning_rate=0.1, weight_decay=0.0, l2=0.5)
    before = copies(model.parameters)
    model.loss_and_grads(IDS, TARGETS)
    model.gradient[...] = 0
    optimizer.step()
    for name, weight in before.items():
        moved = model.parameters[name] - weight
        assert np.all(moved * weight < 0) if weight.ndim == 2 else not moved.any(), name


@EVERY_OPTIMIZER
@pytest.mark.parametrize("max_grad_norm", [None, 1e-3, 1e3, math.inf])
def test_the_norm_is_that_before_clipping_and_the_gradient_is_left_alone(optimizer_class, max_grad_norm):
    model = tiny_model()
    _, grads = model.loss_and_grads(IDS, TARGETS)
    before = copies(grads)
    norm = optimizer_class(model, learning_rate=1e-3, l2=0.5).step(max_grad_norm=max_grad_norm)
    assert norm.shape == ()
    assert float(norm) == pytest.approx(length(before.values()), rel=1e-12)
    for name in before:
        np.testing.assert_array_equal(grads[name], before[name])


@EVERY_OPTIMIZER
def test_a_gradient_shorter_than_the_limit_is_not_stretched(optimizer_class):
    stepped = []
    for max_grad_norm in (None, 1e6, math.inf):
        model = tiny_model()
        model.loss_and_grads(IDS, TARGETS)
        optimizer_class(model, learning_rate=1e-3).step(max_grad_norm=max_grad_norm)
        stepped.append(model.parameters.trainable.copy())
    np.testing.assert_array_equal(stepped[0], stepped[1])
    np.testing.assert_array_equal(stepped[0], stepped[2])


@EVERY_OPTIMIZER
def test_the_padding_of_the_flat_buffers_stays_zero(optimizer_class):
    model = tiny_model(hidden_size=12, head_dim=6)      # 12 numbers leave a gap before the next multiple of 64 bytes
    optimizer = optimizer_class(model, learning_rate=1e-3, weight_decay=0.5, l2=0.5)
    empty = padding(model)
    assert empty.any()
    for ids, targets in batches(3):
        model.loss_and_grads(ids, targets)
        optimizer.step(max_grad_norm=0.5)
    assert not model.parameters.trainable[empty].any()
    assert not model.gradient[empty].any()
    assert not any(buffer[empty].any() for buffer in optimizer.state().values())


@EVERY_OPTIMIZER
def test_the_learning_rate_may_change_between_steps(optimizer_class):
    model = tiny_model()
    optimizer = optimizer_class(model, learning_rate=0.01, weight_decay=0.2)
    moves = []
    for learning_rate in (0.01, 0.0, 0.03):
        optimizer.learning_rate = learning_rate
        model.loss_and_grads(IDS, TARGETS)
        before = model.parameters.trainable.copy()
        optimizer.step()
        moves.append(np.max(np.abs(model.parameters.trainable - before)))
    assert moves[1] == 0.0
    assert moves[2] > 2 * moves[0] > 0


@EVERY_OPTIMIZER
def test_frozen_weights_stay_and_the_others_move(optimizer_class):
    model = tiny_model(frozen=("model.layers.0.*", "model.norm.weight"))
    before = copies(model.parameters)
    optimizer = optimizer_class(model, learning_rate=1e-3)
    for ids, targets in batches(2):
        model.loss_and_grads(ids, targets)
        optimizer.step()
    for name, weight in model.parameters.items():
        is_frozen = name.startswith("model.layers.0.") or name == "model.norm.weight"
        assert np.array_equal(weight, before[name]) == is_frozen, name


@EVERY_OPTIMIZER
def test_float32_stays_float32(optimizer_class):
    model = tiny_model(dtype="float32")
    model.loss_and_grads(IDS, TARGETS)
    optimizer = optimizer_class(model, learning_rate=1e-3)
    norm = optimizer.step(max_grad_norm=0.1)
    assert norm.dtype == model.parameters.trainable.dtype == np.float32
    assert {buffer.dtype for buffer in optimizer.state().values()} == {np.dtype("float32")}


# ---- what an optimizer remembers

def stepped(optimizer, steps, first=0):
    """Make some steps, each with the gradient of another batch, and return the optimizer."""
    for ids, targets in batches(first + steps)[first:]:
        optimizer.model.loss_and_grads(ids, targets)
        optimizer.step(max_grad_norm=1.3)
    return optimizer


@EVERY_OPTIMIZER
@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_state_that_is_put_back_goes_on_bit_for_bit(optimizer_class, on_device, dtype):
    backend = strict_device.backend() if on_device else load_backend("numpy")

    def new(weights):
        model = Llama(tiny_config(), backend, dtype, seed=None)
        model.parameters.trainable[...] = backend.asarray(weights)
        return optimizer_class(model, learning_rate=0.02, weight_decay=0.1, l2=0.1)

    def weights_of(optimizer):
        return backend.to_numpy(optimizer.model.parameters.trainable).copy()

    first = stepped(new(tiny_model(dtype=dtype).parameters.trainable), 3)
    state, weights = first.state(), weights_of(first)
    stepped(first, 4, first=3)
    second, forgetful = new(weights), new(weights)
    second.load_state(state, 3)
    stepped(second, 4, first=3)
    assert second.steps == first.steps == 7
    np.testing.assert_array_equal(weights_of(second), weights_of(first))
    for name in state:
        np.testing.assert_array_equal(second.state()[name], first.state()[name])
    stepped(forgetful, 4, first=3)
    assert not np.array_equal(weights_of(forgetful), weights_of(first))


@pytest.mark.parametrize(("optimizer_class", "names"), [(AdamW, ["m", "v"]), (SGD, ["velocity"])])
def test_the_state_are_flat_numpy_arrays_by_name_zero_before_the_first_step(optimizer_class, names):
    model = tiny_model()
    optimizer = optimizer_class(model, learning_rate=0.01)
    assert list(optimizer.state()) == names
    for array in optimizer.state().values():
        assert type(array) is np.ndarray
        assert array.shape == model.parameters.trainable.shape
        assert array.dtype == np.float64
        assert not array.any()
    stepped(optimizer, 1)
    assert all(array.any() for array in optimizer.state().values())


@EVERY_OPTIMIZER
def test_a_state_is_a_copy_and_so_is_what_is_loaded(optimizer_class):
    optimizer = stepped(optimizer_class(tiny_model(), learning_rate=0.01), 1)
    state = optimizer.state()
    kept = copies(state)
    stepped(optimizer, 1, first=1)
    optimizer.load_state(state, 1)
    stepped(optimizer, 1, first=2)
    for name in kept:
        np.testing.assert_array_equal(state[name], kept[name])


def test_the_state_of_a_first_step_is_the_gradient():
    model = tiny_model()
    adamw, sgd = (stepped(make, 1).state() for make in (AdamW(model, 0.0, (0.8, 0.95)), SGD(model, 0.0)))
    g = model.gradient * min(1.0, 1.3 / (length([model.gradient]) + 1e-6))
    np.testing.assert_allclose(adamw["m"], 0.2 * g, rtol=1e-12)
    np.testing.assert_allclose(adamw["v"], 0.05 * g**2, rtol=1e-12)
    np.testing.assert_allclose(sgd["velocity"], g, rtol=1e-12)


SIZE = tiny_model().parameters.trainable.size


@pytest.mark.parametrize(("arrays", "steps", "message"), [
    ({"m": np.zeros(SIZE)}, 1, "arrays: expected the names m, v, got m"),
    ({}, 1, "arrays: expected the names m, v, got none"),
    ({"m": np.zeros(SIZE), "v": np.zeros(SIZE), "velocity": np.zeros(SIZE)}, 1, "got m, v, velocity"),
    ({"m": np.zeros(SIZE), "v": np.zeros(SIZE + 8)}, 1, rf"v: expected the shape \({SIZE},\), .*, got \({SIZE + 8},\)"),
    ({"m": np.zeros((1, SIZE)), "v": np.zeros(SIZE)}, 1, rf"m: expected the shape .*, got \(1, {SIZE}\)"),
    ({"m": np.zeros(SIZE), "v": np.zeros(SIZE, "float32")}, 1, "v: expected float64, as the model has, got float32"),
    ({"m": np.zeros(SIZE), "v": np.zeros(SIZE)}, -1, "steps: expected an integer of at least 0, got -1"),
    ({"m": np.zeros(SIZE), "v": np.zeros(SIZE)}, 1.5, "steps: expected an integer of at least 0, got 1.5"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(arrays, steps, message):
    optimizer = stepped(AdamW(tiny_model()), 2)
    before = optimizer.state()
    with pytest.raises(ValueError, match=message):
        optimizer.load_state(arrays, steps)
    assert optimizer.steps == 2
    for name in before:
        np.testing.assert_array_equal(optimizer.state()[name], before[name])


# ---- what is refused

@EVERY_OPTIMIZER
def test_a_step_without_a_gradient_is_refused(optimizer_class):
    model = tiny_model()
    before = model.parameters.trainable.copy()
    optimizer = optimizer_class(model, learning_rate=1e-3)
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
    ({"l2": -0.1}, "l2: expected at least 0, got -0.1"),
])
def test_settings_out_of_their_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AdamW(tiny_model(), **settings)


@pytest.mark.parametrize(("settings", "message"), [
    ({"learning_rate": -1e-3}, "learning_rate: expected at least 0, got -0.001"),
    ({"momentum": 1.5}, "momentum: expected 0 <= momentum < 1, got 1.5"),
    ({"momentum": 1.0}, "momentum: expected 0 <= momentum < 1, got 1.0"),
    ({"momentum": -0.1}, "momentum: expected 0 <= momentum < 1, got -0.1"),
    ({"momentum": math.nan}, "momentum: expected 0 <= momentum < 1, got nan"),
    ({"weight_decay": -0.1}, "weight_decay: expected at least 0, got -0.1"),
    ({"l2": math.nan}, "l2: expected at least 0, got nan"),
])
def test_settings_of_sgd_out_of_their_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SGD(tiny_model(), **{"learning_rate": 0.1} | settings)
