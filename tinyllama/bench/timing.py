"""A backend whose operations note how long they took and how much they had to do. The library does not know of it."""

import functools
import threading
import time
from typing import NamedTuple

from tinyllama.backends.threads import THREAD_NAME
from tinyllama.bench import counts

# Not `softmax`: attention calls it, and a replaced one would bring the readable attention back.
PAIRS = ("embedding", "linear", "rmsnorm", "rope", "attention", "swiglu", "cross_entropy")
SINGLE = ("adamw_step", "global_norm")


class Call(NamedTuple):
    """One call of one operation."""

    op: str
    seconds: float
    work: counts.Work
    worker: str | None      # the worker thread that made it; None for the caller's own thread, while no worker runs


class _TimedCache(NamedTuple):
    """What a timed forward hands to its backward: the cache, and how much the backward will have to do."""

    cache: object
    work: counts.Work


def timed_backend(backend):
    """(a backend with the same kernels, a list that each call of an operation appends a `Call` to).

    Appending to a list is safe from several threads.
    """
    calls = []
    functions = {name: _timed_single(name, getattr(backend, name), calls) for name in SINGLE}
    for name in PAIRS:
        forward, backward = (getattr(backend, f"{name}_{way}") for way in ("forward", "backward"))
        functions[f"{name}_forward"] = _timed_forward(name, forward, calls)
        functions[f"{name}_backward"] = _timed_backward(name, backward, calls)
    return backend.with_ops(**functions), calls


def _timed_single(name, function, calls):
    @functools.wraps(function)
    def timed(*arrays, **settings):
        seconds, result = _clocked(function, *arrays, **settings)
        _note(calls, name, seconds, getattr(counts, name)(*arrays, **settings))
        return result
    return timed


def _timed_forward(name, function, calls):
    @functools.wraps(function)
    def timed(*arrays, **settings):
        seconds, (y, cache) = _clocked(function, *arrays, **settings)
        forward, backward = getattr(counts, name)(*arrays, **settings)
        _note(calls, f"{name}_forward", seconds, forward)
        return y, _TimedCache(cache, backward)
    return timed


def _timed_backward(name, function, calls):
    @functools.wraps(function)
    def timed(dy, cache, *needs):
        seconds, gradients = _clocked(function, dy, cache.cache, *needs)
        _note(calls, f"{name}_backward", seconds, cache.work)
        return gradients
    return timed


def _clocked(function, *arguments, **settings):
    start = time.perf_counter()
    result = function(*arguments, **settings)
    return time.perf_counter() - start, result


def _note(calls, op, seconds, work):
    thread = threading.current_thread().name
    calls.append(Call(op, seconds, work, thread if thread.startswith(THREAD_NAME) else None))


class Row(NamedTuple):
    """All calls of one operation within a step. `op` is "the rest" for what no operation accounts for."""

    op: str
    calls: int
    seconds: float      # its part of the step: a call in one of W workers counts 1 / W of its time
    flop: int
    bytes: int


REST = "the rest"


def rows_of(calls, seconds):
    """The operations of a step that took so many seconds, the slowest first, and then the rest: their sum is the step.

    While W workers run, a second in one of them is 1 / W of a second of the step; what they wait, for one another or
    for Python, is in the rest.
    """
    workers = max(len({call.worker for call in calls} - {None}), 1)
    rows = {}
    for call in calls:
        row = rows.get(call.op, Row(call.op, 0, 0.0, 0, 0))
        share = call.seconds / (1 if call.worker is None else workers)
        rows[call.op] = Row(call.op, row.calls + 1, row.seconds + share, row.flop + call.work.flop,
                            row.bytes + call.work.bytes)
    rows = sorted(rows.values(), key=lambda row: -row.seconds)
    return rows + [Row(REST, 0, seconds - sum(row.seconds for row in rows), 0, 0)]
