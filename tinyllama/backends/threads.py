"""How the work of a step is shared on a CPU: rows of the batch over worker threads, each with one BLAS thread.

Threads inside BLAS and threads around it fight for the same cores; splitting the batch instead keeps each core at one
piece of work from end to end. Nothing here runs on import.

Two others share work in other ways, with the threads of this file: `cpu/slices.py` the pieces of one long array, and
`cpu/team.py` the phases of one token, whose threads wait for one another in compiled code.
"""

import contextlib
import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import threadpoolctl

THREAD_NAME = "tinyllama"
UNKNOWN_MEMORY = 4 * 2**30      # bytes assumed where the system does not say


def cores():
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes():
    """The physical memory of this machine, or a cautious guess where it cannot be read."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return UNKNOWN_MEMORY


def choose_workers(rows, gradient_bytes):
    """The number of worker threads for a batch: the smallest of cores, rows, and what memory allows.

    Each worker has a gradient buffer of its own; together they may take a quarter of the memory. One worker where the
    threads of BLAS cannot be set, because they would fight with the workers.
    """
    if not _blas_controllers().lib_controllers:
        return 1
    return max(1, min(cores(), rows, memory_bytes() // 4 // max(gradient_bytes, 1)))


class _BlasSetting:
    """How many callers are inside `blas_threads` now, and what puts back the setting from before the first."""

    def __init__(self):
        self.lock, self.callers, self.limiter = threading.Lock(), 0, None


# {process: its _BlasSetting}. A forked child has neither the callers of its parent, nor the one that held the lock.
_blas_settings = {}


@contextlib.contextmanager
def blas_threads(count):
    """Within this context, each matrix product uses `count` threads.

    The setting belongs to the whole process. Where several threads are inside at once, the first to enter sets it and
    the last to leave puts it back.
    """
    setting = _blas_settings.setdefault(os.getpid(), _BlasSetting())
    with setting.lock:
        setting.callers += 1
        if setting.callers == 1:
            setting.limiter = _blas_controllers().limit(limits=count)
    try:
        yield
    finally:
        with setting.lock:
            setting.callers -= 1
            if setting.callers == 0:
                setting.limiter.restore_original_limits()


def run_in_threads(functions):
    """Call every function in a thread of its own, and return their results in order.

    The first error is raised, but not before all have ended: nobody writes into the caller's arrays any more. Called
    from one of these threads, it does the work there: waiting for a pool from inside the pool would never end.
    """
    if len(functions) == 1 or threading.current_thread().name.startswith(THREAD_NAME):
        return [function() for function in functions]
    futures = [_pool(len(functions), os.getpid()).submit(function) for function in functions]
    wait(futures)
    return [future.result() for future in futures]


@functools.cache
def _blas_controllers():
    # Made once: looking for the loaded libraries takes a third of a millisecond, switching them a fiftieth.
    return threadpoolctl.ThreadpoolController().select(user_api="blas")


@functools.cache
def _pool(count, process):
    # One for each process: a forked child inherits the pool of its parent, but not the threads in it.
    return ThreadPoolExecutor(count, thread_name_prefix=THREAD_NAME)
