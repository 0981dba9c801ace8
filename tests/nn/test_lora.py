"""Low-rank updates beside a linear layer: the formula, the gradients, and mistakes that the checks must reject."""

import models_under_test as mut
import numpy as np
import pytest

from tinyllama import gradients
from tinyllama.backends import available_backends
from tinyllama.gradients import GradientError
from tinyllama.nn import Linear
from tinyllama.nn.lora import LoraLinear, LowRankUpdate

BATCH, LENGTH, IN, OUT, RANK, SCALE = 2, 5, 8, 9, 3, 2.5
X = np.random.default_rng(20).normal(size=(BATCH, LENGTH, IN))
PARTS = {"first": 4, "second": 2, "third": 3}


def adapted(targets, *, parts=None, bias=False, kind=LoraLinear):
    return kind(Linear("linear", IN, OUT, bias=bias, parts=parts), targets, rank=RANK, scale=SCALE)


LAYERS = {
    "a whole matrix": lambda **kind: adapted(["linear"], **kind),
    "with a bias": lambda **kind: adapted(["linear"], bias=True, **kind),
    "the first part": lambda **kind: adapted(["first"], parts=PARTS, **kind),
    "two parts that are no neighbours": lambda **kind: adapted(["third", "first"], parts=PARTS, **kind),
    "all parts, with biases": lambda **kind: adapted(list(PARTS), parts=PARTS, bias=True, **kind),
}
every_layer = pytest.mark.parametrize("label", LAYERS)


@pytest.mark.parametrize("name", available_backends())
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 1e-5)])
def test_the_update_is_a_product_with_two_thin_matrices_added_to_the_rows_of_its_part(name, dtype, tolerance):
    layer = adapted(["first", "third"], parts=PARTS)
    p = mut.bind(layer, backend=name, dtype=dtype)
    x = X.astype(dtype)
    changes = {part: SCALE * p[f"{part}.lora_B.weight"] @ p[f"{part}.lora_A.weight"] for part in ("first", "third")}
    weight = np.concatenate([p[f"{part}.weight"] + changes.get(part, 0) for part in PARTS])
    y, _ = layer.forward(x)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, np.einsum("bti,oi->bto", x, weight), rtol=0, atol=tolerance)


def test_an_update_as_a_matrix_is_what_it_multiplies_with():
    layer = LowRankUpdate("part", IN, OUT, rank=RANK, scale=SCALE)
    parameters = mut.bind(layer)
    assert {name: array.shape for name, array in parameters.items()} == {
        "part.lora_A.weight": (RANK, IN), "part.lora_B.weight": (OUT, RANK)}
    np.testing.assert_allclose(layer.forward(X)[0], X @ layer.matrix().T, rtol=0, atol=1e-12)


@every_layer
def test_gradients_are_the_derivatives(label):
    report = mut.check_layer(LAYERS[label](), X)
    assert any("lora_A" in row.argument for row in report.rows)
    assert all(row.norm > 0 and row.jacobian_error is not None for row in report.rows)


@every_layer
def test_backward_adds_to_the_gradients_it_is_given(label):
    mut.check_adds(LAYERS[label](), X)


@every_layer
def test_gradients_where_the_same_layer_runs_twice(label, monkeypatch):
    monkeypatch.setattr(gradients, "LARGEST_JACOBIAN", 0)

    class Beside(mut.Twice):
        """layer(x) + layer(2 x): the layers here do not have as many outputs as inputs."""

        def forward(self, x):
            (y, first), (z, second) = self.layer.forward(x), self.layer.forward(2 * x)
            return y + z, (first, second)

        def backward(self, dy, cache, grads):
            first, second = cache
            return self.layer.backward(dy, first, grads) + 2 * self.layer.backward(dy, second, grads)

    mut.check_layer(Beside(LAYERS[label]()), X)


@every_layer
def test_without_gradients_for_the_frozen_matrix_none_is_computed(label):
    calls, layer = [], LAYERS[label]()
    frozen = [name for d in layer.linear.declarations() for name in ([part for part, _ in d.parts] or [d.name])]
    parameters = mut.bind(layer, frozen=frozen, backend=mut.spying(calls, "linear_backward"))
    y, cache = layer.forward(X)
    _, grads = parameters.new_gradients()
    layer.backward(np.ones_like(y), cache, grads)
    of_the_matrix, *of_updates = [tuple(map(bool, args[2])) for _, args, _, _ in calls]
    assert of_the_matrix == (True, False, False)
    assert set(of_updates) == {(True, True, False)}
    assert list(grads) == [name for update in layer.updates() for name in update.shapes]


@every_layer
def test_inputs_are_not_changed_and_nothing_is_kept(label):
    layer = LAYERS[label]()
    parameters = mut.bind(layer)
    x, before = X.copy(), mut.copies(parameters)
    (y, cache), attributes = layer.forward(x), dict(vars(layer))
    dy = np.cos(y)
    kept = dy.copy()
    first, second = (layer.backward(dy, cache, parameters.new_gradients()[1]) for _ in range(2))
    layer.forward(2 * x)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(dy, kept)
    mut.assert_same_gradients(parameters, before, tolerance=0)
    assert vars(layer) == attributes


def test_while_b_is_zero_the_layer_does_nothing_and_only_b_has_a_gradient():
    layer = adapted(["linear"])
    p = mut.bind(layer)
    p["linear.lora_B.weight"][...] = 0
    y, cache = layer.forward(X)
    np.testing.assert_array_equal(y, layer.linear.forward(X)[0])
    _, grads = p.new_gradients()
    layer.backward(np.cos(y), cache, grads)
    assert not grads["linear.lora_A.weight"].any()
    assert np.abs(grads["linear.lora_B.weight"]).min() > 0


# ---- against PyTorch

def test_pytorch_agrees():
    torch = pytest.importorskip("torch", reason="torch is not installed, so nothing else derives this.")
    layer = adapted(["first", "third"], parts=PARTS, bias=True)
    p = mut.bind(layer)
    y, cache = layer.forward(X)
    dy = np.random.default_rng(8).normal(size=y.shape)
    _, grads = p.new_gradients()
    received = {"x": layer.backward(dy, cache, grads), **grads}

    theirs = {name: torch.tensor(array, requires_grad=True) for name, array in {"x": X, **p}.items()}
    columns = []
    for part in PARTS:
        column = torch.nn.functional.linear(theirs["x"], theirs[f"{part}.weight"], theirs[f"{part}.bias"])
        if part != "second":
            a, b = theirs[f"{part}.lora_A.weight"], theirs[f"{part}.lora_B.weight"]
            column = column + SCALE * (theirs["x"] @ a.T) @ b.T
        columns.append(column)
    expected = torch.cat(columns, dim=-1)
    expected.backward(torch.tensor(dy))
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=0, atol=1e-10)
    assert set(received) == set(theirs)
    for name, array in theirs.items():
        np.testing.assert_allclose(received[name], array.grad.numpy(), rtol=0, atol=1e-10, err_msg=name)


# ---- the tests of the tests: layers with a mistake, each of which must be rejected

class ScaleLeftOutBackwards(LowRankUpdate):
    def backward(self, dy, cache, grads):
        a_cache, b_cache = cache
        dz, db, _ = self.ops.linear_backward(dy, b_cache)
        dx, da, _ = self.ops.linear_backward(dz, a_cache)
        grads.add(self.b, db)
        grads.add(self.a, da)
        return dx


class ScaleTwiceOnB(LowRankUpdate):
    def backward(self, dy, cache, grads):
        dx = super().backward(dy, cache, grads)
        grads.add(self.b, (self.scale - 1) * self.ops.linear_backward(dy, cache[1])[1])
        return dx


class FactorsExchanged(LowRankUpdate):
    """Only where both are square does nothing else give this away."""

    def backward(self, dy, cache, grads):
        mine = Recorder({name: np.zeros(shape) for name, shape in self.shapes.items()})
        dx = super().backward(dy, cache, mine)
        grads.add(self.a, mine[self.b])
        grads.add(self.b, mine[self.a])
        return dx


class ATransposed(LowRankUpdate):
    def backward(self, dy, cache, grads):
        a_cache, b_cache = cache
        a_cache = a_cache._replace(weight=a_cache.weight.T)
        return super().backward(dy, (a_cache, b_cache), grads)


class Recorder(dict):
    def add(self, name, gradient):
        self[name] += gradient


class NoGradientForTheInput(LowRankUpdate):
    def backward(self, dy, cache, grads):
        return 0 * super().backward(dy, cache, grads)


class Overwrites(LowRankUpdate):
    def backward(self, dy, cache, grads):
        mine = Recorder({name: np.zeros(shape) for name, shape in self.shapes.items()})
        dx = super().backward(dy, cache, mine)
        for name, gradient in mine.items():
            grads[name][...] = gradient
        return dx


class RowsOfTheNeighbour(LoraLinear):
    """The updates are added to their parts, and take their gradients from others."""

    def backward(self, dy, cache, grads):
        return super().backward(np.roll(dy, 1, axis=-1), cache, grads)


class OnlyTheMatrixReachesTheInput(LoraLinear):
    def backward(self, dy, cache, grads):
        super().backward(dy, cache, grads)
        return self.linear.backward(dy, cache[0], self.parameters.new_gradients()[1])


def with_updates(kind, targets=("first", "third")):
    layer = adapted(list(targets), parts=PARTS)
    for _, update in layer.pieces:
        if update is not None:
            update.__class__ = kind
    return layer


@pytest.mark.parametrize("make", [
    lambda: with_updates(ScaleLeftOutBackwards), lambda: with_updates(ScaleTwiceOnB),
    lambda: FactorsExchanged("part", IN, IN, rank=IN, scale=SCALE),
    lambda: ATransposed("part", IN, IN, rank=IN, scale=SCALE), lambda: with_updates(NoGradientForTheInput),
    lambda: adapted(["first"], parts=PARTS, kind=RowsOfTheNeighbour),
    lambda: adapted(["first", "third"], parts=PARTS, kind=OnlyTheMatrixReachesTheInput),
], ids=["scale left out", "scale twice", "A and B exchanged", "A transposed", "no gradient for the input",
        "rows of another part", "the input forgets the update"])
def test_a_wrong_layer_is_rejected(make, monkeypatch):
    monkeypatch.setattr(gradients, "LARGEST_JACOBIAN", 0)
    with pytest.raises(GradientError):
        mut.check_layer(make(), X)


def test_a_layer_that_overwrites_is_rejected():
    with pytest.raises(AssertionError):
        mut.check_adds(with_updates(Overwrites), X)


def test_a_forward_pass_without_the_scale_or_with_other_rows_is_seen():
    layer = adapted(["first", "third"], parts=PARTS)
    mut.bind(layer)
    expected, _ = layer.forward(X)
    for _, update in layer.pieces:
        if update is not None:
            update.scale = 1.0
    assert np.abs(layer.forward(X)[0] - expected).max() > 0.1
