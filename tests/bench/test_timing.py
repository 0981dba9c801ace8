"""The timed backend: the same kernels, with a note of every call."""

import inspect

import numpy as np
import pytest
from toy_sizes import LIMITS, TOY, finite_numbers

from tinyllama.bench import as_json, counts, training
from tinyllama.bench.counts import Work
from tinyllama.bench.limits import Limits, measure_limits
from tinyllama.bench.steps import our_step, random_batch
from tinyllama.bench.timing import PAIRS, REST, SINGLE, Call, rows_of, timed_backend
from tinyllama.bench.training import profile_training
from tinyllama.models import Llama
from tinyllama.ops import OPS

TIMED = {*SINGLE, *(f"{name}_{way}" for name in PAIRS for way in ("forward", "backward"))}


def test_the_kernels_are_those_of_the_backend(backend):
    timed, _ = timed_backend(backend)
    for name in OPS:
        assert (getattr(timed, name) is not getattr(backend, name)) == (name in TIMED), name
        assert inspect.unwrap(getattr(timed, name)) is inspect.unwrap(getattr(backend, name)), name


def test_attention_keeps_the_cache_of_its_kernel(backend, rng):
    q, k, v = rng.normal(size=(3, 2, 2, 5, 4)).astype(np.float32)
    timed, _ = timed_backend(backend)
    _, cache = timed.attention_forward(q, k, v, causal=True)
    assert type(cache.cache) is type(backend.attention_forward(q, k, v, causal=True)[1])


def test_loss_and_gradients_are_the_same_to_the_bit(backend):
    results = []
    for used in (backend, timed_backend(backend)[0]):
        loss, grads = Llama(TOY.config, backend=used, workers=2).loss_and_grads(*random_batch(TOY))
        results.append((float(loss), {name: gradient.copy() for name, gradient in grads.items()}))
    assert results[0][0] == results[1][0]
    for name, gradient in results[0][1].items():
        assert np.array_equal(gradient, results[1][1][name]), name


def test_what_the_products_do_is_what_the_model_is_said_to_do(backend):
    timed, calls = timed_backend(backend)
    step, _ = our_step(TOY, backend=timed, workers=2)
    step()
    assert {call.op for call in calls} == TIMED
    pairs = TOY.layers * TOY.batch_size * TOY.heads * TOY.context * (TOY.context + 1) // 2
    softmax = pairs * (6 + 5)
    products = sum(call.work.flop for call in calls if call.op.startswith(("linear", "attention"))) - softmax
    assert products == counts.model_flop(TOY.config, TOY.batch_size, TOY.context)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_rows_add_up_to_the_step(backend, workers):
    profile = profile_training(TOY, backend=backend.name, workers=workers, steps=3)
    assert (profile.workers, profile.backend, len(profile.times)) == (workers, backend.name, 3)
    assert {row.op for row in profile.rows} == {*TIMED, REST}
    assert profile.rows[-1].op == REST
    assert sum(row.seconds for row in profile.rows) == pytest.approx(profile.seconds, rel=1e-9)
    assert min(row.seconds for row in profile.rows) >= 0
    facts = as_json.training_as_json(profile, LIMITS)
    assert sum(row["share_of_step"] for row in facts["operations"]) == pytest.approx(1)
    paths = finite_numbers(facts)
    assert {"/step_ms", "/step_ms_quartiles", "/tokens_per_second", "/model_gflop", "/model_gflops",
            "/share_of_products", "/operations/ms", "/operations/gflops", "/operations/gb_per_second",
            "/operations/share_of_memory", "/operations/share_of_bound"} <= set(paths)


def test_a_backend_that_has_one_thread_is_said_to_have_one(backend, monkeypatch):
    alone = backend.with_ops()
    alone.runs_in_threads = False
    monkeypatch.setattr(training, "load_backend", lambda name: alone)
    assert profile_training(TOY, workers=2, steps=1).workers == 1


def test_a_second_in_one_of_two_workers_is_half_a_second_of_the_step():
    calls = [Call("linear_forward", 3.0, Work(5, 7), "tinyllama_0"),
             Call("linear_forward", 1.0, Work(50, 70), "tinyllama_1"), Call("adamw_step", 0.5, Work(1, 2), None)]
    linear, adamw, rest = rows_of(calls, 4.0)
    assert linear == ("linear_forward", 2, 2.0, 55, 77)
    assert adamw == ("adamw_step", 1, 0.5, 1, 2)
    assert rest == (REST, 0, 1.5, 0, 0)


# ---- the limits

def test_the_limits_are_measured():
    said = []
    limits = measure_limits(said.append, product_sizes=(16, 32), array_bytes=2**16, rounds=2)
    assert all(0 < limit < 1e18 for limit in limits)
    assert len(said) == 2


def test_the_limit_that_binds_is_the_one_that_takes_longer():
    limits = Limits(flop_per_second=100.0, bytes_per_second=10.0)
    assert limits.seconds(flop=300, bytes=20) == (3.0, "products")
    assert limits.seconds(flop=100, bytes=20) == (2.0, "memory")
