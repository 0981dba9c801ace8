"""Ours beside PyTorch's: whether it is the same step, and what is said where there is none."""

import importlib.util

import numpy as np
import pytest
from toy_sizes import TOY, finite_numbers

from tinyllama.bench import as_json, comparison, steps, torch_llama
from tinyllama.bench.comparison import NO_TORCH, Comparison, Side, compare
from tinyllama.bench.contestant import Contestant
from tinyllama.bench.steps import our_step, random_batch

has_torch = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not has_torch, reason="torch is not installed, so there is nothing to compare with.")


def with_the_weights_of(model):
    """PyTorch's LLaMA with the weights of ours."""
    import torch
    theirs = torch_llama.torch_llama(model.config)
    theirs.load_state_dict({name: torch.tensor(weight) for name, weight in model.parameters.items()})
    return theirs


@needs_torch
def test_pytorch_computes_the_same_loss_from_the_same_weights():
    import torch
    _, model = our_step(TOY)
    for weight in model.parameters.values():        # where attention and norms have something to do
        weight[...] = np.random.default_rng(weight.size).normal(0.5 * (weight.ndim == 1), 0.3, weight.shape)
    ids, targets = random_batch(TOY)
    theirs = with_the_weights_of(model)(torch.tensor(ids), torch.tensor(targets)).item()
    assert theirs == pytest.approx(float(model.loss(ids, targets)), rel=1e-5)


@needs_torch
def test_pytorch_makes_the_same_steps(monkeypatch):
    """The losses of ten steps agree only if gradients, clipping, decay and AdamW do: all are made to matter."""
    for module in (steps, torch_llama):
        monkeypatch.setattr(module, "LEARNING_RATE", 0.01)
        monkeypatch.setattr(module, "WEIGHT_DECAY", 1.0)
        monkeypatch.setattr(module, "MAX_GRAD_NORM", 0.1)
    step, model = our_step(TOY)
    theirs = with_the_weights_of(model)
    monkeypatch.setattr(torch_llama, "torch_llama", lambda config: theirs)
    their_step = torch_llama.torch_step(TOY, compiled=False)
    losses = [(step(), their_step()) for _ in range(10)]
    assert losses[-1][0] < losses[0][0] - 0.5
    for ours, other in losses:
        assert other == pytest.approx(ours, rel=1e-5)


@needs_torch
def test_the_sides_take_turns(monkeypatch):
    monkeypatch.setattr(comparison, "_peak", lambda *_: 7_000_000)
    said = []
    result = compare(TOY, backend="numpy", workers=1, kinds=("ours", "eager"), rounds=2, say=said.append)
    assert [len(side.rounds) for side in result.sides.values()] == [2, 2]
    assert result.sides["ours"].facts == {"backend": "numpy", "workers": 1}
    turns = [text.rpartition(" ")[2] for text in said if "round" in text]
    assert turns == ["ours", "eager", "ours", "eager"]
    facts = as_json.comparison_as_json(result)
    paths = set(finite_numbers(facts))
    assert {"/sides/ours/step_ms", "/sides/eager/step_ms_rounds", "/times_as_long_as_ours/eager/ratio",
            "/times_as_long_as_ours/eager/low", "/times_as_long_as_ours/eager/high"} <= paths


def test_without_pytorch_ours_is_still_measured(monkeypatch):
    monkeypatch.setattr(comparison, "torch_is_installed", lambda: False)
    result = compare(TOY, backend="numpy", rounds=1)
    assert list(result.sides) == ["ours"]
    assert result.sides["ours"].peak is None or result.sides["ours"].peak > 0
    assert result.failed == {"eager": NO_TORCH, "compiled": NO_TORCH}
    assert finite_numbers(as_json.comparison_as_json(result))


class Actor:
    """A contestant of no process. The compiled one cannot run."""

    def __init__(self, kind, size, **settings):
        self.kind, self.facts = kind, {"torch": "2", "threads": 1}

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def steps(self, count):
        if self.kind == "compiled":
            raise ChildProcessError("compiled: InductorError: no C++ compiler")
        return {"seconds": [9.0] + [0.5] * (count - 1), "loss": 1.0, "peak": 5_000_000}


def test_where_nothing_can_be_compiled_eager_is_still_compared(monkeypatch):
    monkeypatch.setattr(comparison, "torch_is_installed", lambda: True)
    monkeypatch.setattr(comparison, "Contestant", Actor)
    result = compare(TOY, rounds=2)
    assert list(result.sides) == ["ours", "eager"]
    assert result.failed == {"compiled": "compiled: InductorError: no C++ compiler"}
    assert result.sides["eager"].rounds == [[0.5, 0.5], [0.5, 0.5]]     # without the first of each turn


def test_a_ratio_is_that_of_the_medians_and_its_quartiles_those_of_the_rounds():
    ours = Side("ours", {}, [[1.0, 1.0], [2.0, 2.0], [1.0, 1.0]], None)
    eager = Side("eager", {}, [[2.0, 2.0], [6.0, 6.0], [4.0, 4.0]], None)
    assert Comparison(TOY, {"ours": ours, "eager": eager}, {}).ratio("eager") == (4.0, 2.5, 3.5)


# ---- the process of a contestant

def test_a_contestant_makes_steps_in_a_process_of_its_own(backend):
    with Contestant("ours", TOY, backend=backend.name, workers=2) as contestant:
        assert contestant.facts == {"backend": backend.name, "workers": 2}
        first, then = contestant.steps(1), contestant.steps(3)
    assert (len(first["seconds"]), len(then["seconds"])) == (1, 3)
    assert then["loss"] < first["loss"]
    assert then["peak"] is None or 0 < then["peak"] < 2**32


@pytest.mark.parametrize(("arguments", "message"), [
    ({"backend": "no-such"}, "ours: ValueError: backend: expected one of"),
    ({"workers": -1}, "ours: ValueError: workers: expected at least 1, or None, got -1"),
    ({"environment": {"PYTHONPATH": "/no/such", "PYTHONHOME": "/no/such"}}, "ours: "),      # Python itself ends
])
def test_a_contestant_that_fails_says_why_in_one_sentence(arguments, message):
    with pytest.raises(ChildProcessError) as error:
        Contestant("ours", TOY, **{"backend": "numpy", **arguments})
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value) and len(str(error.value)) > len("ours: ")
