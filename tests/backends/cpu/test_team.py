"""Threads that meet inside compiled code: nobody passes before the last has come, and nobody waits for ever."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

pytest.importorskip("numba", reason="Numba is not installed.")

import numba

from tinyllama.backends.cpu import team
from tinyllama.backends.cpu.team import ARRIVED, CANCELLED, meet, run_as_team, share
from tinyllama.backends.threads import run_in_threads

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="A meeting of several is compiled code.")


@numba.njit(nogil=True)
def count_together(rank, size, meeting, counts, rounds):
    """Each adds 1 to its own count; after a meeting, all counts must be the same. False where one is not."""
    met, agreed = 0, True
    for done in range(1, rounds + 1):
        counts[rank] += 1
        met += 1
        if not meet(meeting, met, size):
            return False
        for other in range(size):
            agreed &= counts[other] == done
        counts[size + rank] = agreed        # before the last meeting, after which the caller may look
        met += 1
        if not meet(meeting, met, size):
            return False
    return True


def counted(size, rounds=2000):
    counts = np.zeros(2 * size, np.int64)
    run_as_team(lambda rank, size, meeting: count_together(rank, size, meeting, counts, rounds), size)
    return counts


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_nobody_passes_before_the_last_has_come(size):
    for _ in range(3):
        rounds = 2000 if size <= 2 else 50          # with more members than cores, a meeting takes a while
        counts = counted(size, rounds)
        assert counts[:size].tolist() == [rounds] * size
        assert counts[size:].all()


@pytest.mark.parametrize("count", [0, 1, 7, 12, 32000])
@pytest.mark.parametrize("size", [1, 2, 3, 16])
def test_the_shares_are_everything_once_and_nearly_equal(count, size):
    shares = [share(count, rank, size) for rank in range(size)]
    assert [number for first, last in shares for number in range(first, last)] == list(range(count))
    lengths = [last - first for first, last in shares]
    assert max(lengths) - min(lengths) <= 1


def wait_until(holds):
    end = time.monotonic() + 30
    while not holds() and time.monotonic() < end:
        time.sleep(0.001)


class Mistake(Exception):
    pass


@pytest.mark.parametrize("culprit", [0, 1, 2])
def test_an_error_of_one_member_lets_the_others_go_and_is_raised(culprit):
    counts = np.zeros(6, np.int64)

    def work(rank, size, meeting):
        if rank == culprit:
            wait_until(lambda: meeting[ARRIVED] == size - 1)        # the others are there
            raise Mistake(rank)
        return count_together(rank, size, meeting, counts, 10)

    with pytest.raises(Mistake):
        run_as_team(work, 3)
    assert counts[:3].max() == 1
    assert counted(3, 10)[3:].all()                 # and the next team finds all threads free


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill is another thing there.")
def test_an_interruption_lets_the_others_go():
    counts = np.zeros(4, np.int64)

    def work(rank, size, meeting):
        if rank == 0:
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)                           # the signal arrives in the main thread, which runs this
        return count_together(rank, size, meeting, counts, 10)

    with pytest.raises(KeyboardInterrupt):
        run_as_team(work, 2)
    assert counted(2, 10)[2:].all()


INTERRUPTED = """
import random, signal, time
import numba
from tinyllama.backends.cpu.team import meet, run_as_team

@numba.njit(nogil=True)
def work(rank, size, meeting):
    return meet(meeting, 1, size)

def interrupted():
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(2e-5, 3e-4))
        while True:
            run_as_team(work, 2)
    except KeyboardInterrupt:
        return 1

run_as_team(work, 2)
random.seed(0)
signal.signal(signal.SIGALRM, signal.default_int_handler)
end = time.monotonic() + 3
count = 0
while time.monotonic() < end:
    count += interrupted()
run_as_team(work, 2)
print(count)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="This system has no timer that sends signals.")
def test_an_interruption_at_any_moment_leaves_a_team_that_works():
    run = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 100


def test_one_team_works_at_a_time():
    working, seen = [], []

    def work(rank, size, meeting):
        if rank == 0:
            working.append(threading.get_ident())
            time.sleep(0.01)
            seen.append(len(working))
            working.pop()
        return True

    threads = [threading.Thread(target=run_as_team, args=(work, 2)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert seen == [1] * 4


def test_a_worker_thread_works_alone():
    sizes = []

    def work(rank, size, meeting):
        sizes.append((rank, size))
        return True

    run_in_threads([lambda: run_as_team(work, 2)] * 3)
    assert sizes == [(0, 1)] * 3


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Only Linux lets a thread be kept off a core.")
def test_the_others_are_kept_off_the_core_of_the_caller(monkeypatch):
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("There is one core.")
    for core in allowed:
        monkeypatch.setattr(team, "_core_of_caller", lambda core=core: core)
        for _ in range(2):                          # the threads begin with the first team
            counted(3, 5)
        ids = team._others(2, os.getpid()).ids
        assert len(ids) == 2
        assert all(os.sched_getaffinity(thread) == allowed - {core} for thread in ids)
    assert os.sched_getaffinity(0) == allowed       # and the caller itself runs wherever it did


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Only Linux lets a thread be kept off a core.")
@pytest.mark.parametrize("only_core", [True, False])
def test_where_they_cannot_be_kept_off_they_work_all_the_same(monkeypatch, only_core):
    def refuse(*arguments):
        raise PermissionError(arguments)

    core = min(os.sched_getaffinity(0))
    if only_core:
        monkeypatch.setattr(team.os, "sched_getaffinity", lambda process: {core})
    else:
        monkeypatch.setattr(team.os, "sched_setaffinity", refuse)
    monkeypatch.setattr(team, "_core_of_caller", lambda: core)
    team._others.cache_clear()
    for _ in range(2):
        assert counted(2, 5)[2:].all()
    team._others.cache_clear()


def test_a_cancelled_meeting_is_over():
    meeting = np.zeros(CANCELLED + 1, np.int64)
    meeting[CANCELLED] = 1
    assert not count_together(0, 2, meeting, np.zeros(4, np.int64), 3)
