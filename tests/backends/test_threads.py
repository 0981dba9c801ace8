"""How the cores are shared: the number of workers, the pool, and the threads of BLAS."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import threadpoolctl

from tinyllama.backends import threads
from tinyllama.backends.threads import blas_threads, choose_workers, cores, memory_bytes, run_in_threads

GIGABYTE = 2**30


@pytest.fixture
def machine(monkeypatch):
    """machine(cores, memory, blas): pretend to be another machine."""
    class Controllers:
        def __init__(self, controllable):
            self.lib_controllers = ["one"] if controllable else []

    def pretend(cores=8, memory=64 * GIGABYTE, blas=True):
        monkeypatch.setattr(threads, "cores", lambda: cores)
        monkeypatch.setattr(threads, "memory_bytes", lambda: memory)
        monkeypatch.setattr(threads, "_blas_controllers", lambda: Controllers(blas))
    return pretend


# ---- how many workers

@pytest.mark.parametrize("settings, rows, gradient_bytes, expected", [
    ({}, 100, GIGABYTE // 1000, 8),                                 # as many as cores
    ({"cores": 3}, 100, 1000, 3),
    ({"cores": 1}, 100, 1000, 1),
    ({}, 5, 1000, 5),                                               # no more than rows
    ({}, 1, 1000, 1),
    ({}, 100, 4 * GIGABYTE, 4),                                     # their gradients take a quarter of the memory
    ({"memory": 4 * GIGABYTE}, 100, GIGABYTE // 2, 2),
    ({"memory": 4 * GIGABYTE}, 100, GIGABYTE, 1),
    ({"memory": 4 * GIGABYTE}, 100, 100 * GIGABYTE, 1),             # one at least, even where memory is short
    ({"blas": False}, 100, 1000, 1),                                # they would fight with threads that cannot be set
    ({}, 100, 0, 8),                                                # everything is frozen: no gradients
])
def test_workers_are_the_smallest_of_cores_rows_and_what_memory_allows(machine, settings, rows, gradient_bytes,
                                                                       expected):
    machine(**settings)
    assert choose_workers(rows, gradient_bytes) == expected


def test_this_machine_has_cores_and_memory():
    assert cores() >= 1
    assert memory_bytes() > GIGABYTE // 8


def test_memory_that_cannot_be_read_is_guessed(monkeypatch):
    def unknown(name):
        raise ValueError(name)
    monkeypatch.setattr(threads.os, "sysconf", unknown, raising=False)
    assert memory_bytes() == threads.UNKNOWN_MEMORY
    monkeypatch.delattr(threads.os, "sysconf", raising=False)                      # Windows
    assert memory_bytes() == threads.UNKNOWN_MEMORY


def test_cores_where_the_system_does_not_say_which_are_allowed(monkeypatch):
    monkeypatch.delattr(threads.os, "sched_getaffinity", raising=False)     # macOS and Windows
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 6)
    assert cores() == 6
    monkeypatch.setattr(threads.os, "cpu_count", lambda: None)
    assert cores() == 1


# ---- running

def test_results_come_in_the_order_of_the_functions():
    turn = threading.Barrier(4)
    order = []

    def work(number):
        turn.wait(timeout=30)               # all four run at the same time
        order.append(number)
        return number * 10

    results = run_in_threads([lambda number=number: work(number) for number in range(4)])
    assert results == [0, 10, 20, 30]
    assert sorted(order) == [0, 1, 2, 3]


def test_one_function_runs_in_the_thread_of_the_caller():
    assert run_in_threads([threading.current_thread]) == [threading.current_thread()]


def test_several_functions_run_in_threads_of_their_own():
    turn = threading.Barrier(2)

    def work():
        turn.wait(timeout=30)
        return threading.current_thread()

    one, other = run_in_threads([work, work])
    assert len({one, other, threading.current_thread()}) == 3


def test_threads_are_used_again():
    def names():
        turn = threading.Barrier(2)

        def work():
            turn.wait(timeout=30)
            return threading.current_thread().name
        return set(run_in_threads([work, work]))
    assert names() == names()


@pytest.mark.parametrize("count", [1, 3])
def test_the_error_of_a_function_is_raised(count):
    def fail():
        raise ZeroDivisionError("from the worker")
    for place in range(count):
        functions = [int] * count
        functions[place] = fail
        with pytest.raises(ZeroDivisionError, match="from the worker"):
            run_in_threads(functions)
    assert run_in_threads([int] * count) == [0] * count             # the pool works on


def test_no_function_is_running_any_more_when_an_error_is_raised():
    failed, finished = threading.Event(), threading.Event()

    def fail():
        failed.set()
        raise ZeroDivisionError

    def go_on():
        failed.wait(timeout=30)
        threading.Event().wait(0.2)
        finished.set()

    with pytest.raises(ZeroDivisionError):
        run_in_threads([fail, go_on])
    was_finished = finished.is_set()
    finished.wait(timeout=30)
    assert was_finished


FORKED = """
import os, signal
from tinyllama.backends.threads import run_in_threads
for _ in range(3):
    run_in_threads([int, int])
child = os.fork()
if child == 0:
    signal.alarm(2)                         # ends the child if it waits for threads that it does not have
    os._exit(run_in_threads([int, int]) != [0, 0])
raise SystemExit(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(threads.os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_threads_of_its_own():
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED], check=False).returncode == 0


# ---- the threads of BLAS

def blas_limits():
    """How many threads each BLAS library uses now."""
    return [library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]


needs_blas = pytest.mark.skipif(not blas_limits(), reason="the threads of this BLAS cannot be set")


@needs_blas
def test_within_the_context_blas_has_so_many_threads_and_afterwards_as_many_as_before():
    before = blas_limits()
    for count in (1, 2):
        with blas_threads(count):
            assert set(blas_limits()) == {count}
        assert blas_limits() == before


@needs_blas
def test_the_threads_of_blas_are_put_back_after_an_error():
    before = blas_limits()
    with pytest.raises(ZeroDivisionError), blas_threads(1):
        raise ZeroDivisionError
    assert blas_limits() == before


@needs_blas
def test_the_first_context_sets_the_threads_and_the_last_to_end_puts_them_back():
    """However two of them overlap: nested, or one in each of two threads, where neither ends inside the other."""
    before = blas_limits()
    first, second = blas_threads(1), blas_threads(2)
    first.__enter__()
    second.__enter__()
    assert set(blas_limits()) == {1}
    first.__exit__(None, None, None)
    assert set(blas_limits()) == {1}
    second.__exit__(None, None, None)
    assert blas_limits() == before


HELD = """
import os, signal, threading
from tinyllama.backends import threads

parent, entered, forked = os.getpid(), threading.Event(), threading.Event()

class Controllers:
    def limit(self, limits):
        if os.getpid() == parent:
            entered.set()
            forked.wait(30)
        return self

    def restore_original_limits(self):
        pass

def multiply():
    with threads.blas_threads(1):
        pass

threads._blas_controllers = Controllers
other = threading.Thread(target=multiply)
other.start()
entered.wait(30)
child = os.fork()
if child == 0:
    signal.alarm(2)                         # ends the child if it waits for a thread that it does not have
    multiply()
    os._exit(0)
status = os.waitpid(child, 0)[1]
forked.set()
other.join()
raise SystemExit(status)
"""


@pytest.mark.skipif(not hasattr(threads.os, "fork"), reason="this system has no fork")
def test_a_child_that_is_forked_while_another_thread_sets_blas_does_not_wait_for_that_thread():
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", HELD], check=False).returncode == 0


@needs_blas
def test_a_training_step_leaves_blas_as_it_was():
    from tinyllama.models import Llama, LlamaConfig
    seen = []

    def noted(*args, **kwargs):
        seen.append(blas_limits())
        return linear_forward(*args, **kwargs)

    from tinyllama.backends import load_backend
    backend = load_backend("numpy")
    linear_forward = backend.linear_forward
    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    model = Llama(config, backend=backend.with_ops(linear_forward=noted), workers=2)
    before = blas_limits()
    model.loss_and_grads(np.ones((2, 3), dtype=int), np.ones((2, 3), dtype=int))
    assert blas_limits() == before
    assert {limit for limits in seen for limit in limits} == {max(1, cores() // 2)}


def test_importing_starts_no_threads_and_sets_no_limits():
    code = ("import threading, threadpoolctl, numpy; before = threadpoolctl.threadpool_info(); "
            "import tinyllama, tinyllama.models, tinyllama.backends.threads; "
            "assert threading.active_count() == 1; assert threadpoolctl.threadpool_info() == before")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_work_that_shares_its_own_work_does_not_wait_for_itself():
    """The pool of two threads is busy with the two outer functions: the inner ones must not queue behind them."""
    def outer(name):
        return threads.run_in_threads([lambda: name + "1", lambda: name + "2"])
    assert threads.run_in_threads([lambda: outer("a"), lambda: outer("b")]) == [["a1", "a2"], ["b1", "b2"]]
