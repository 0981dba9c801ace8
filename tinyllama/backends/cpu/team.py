"""Several threads inside one compiled function: each does its share of a phase, and all meet before the next begins.

A phase of decoding lasts some microseconds, too short to hand out work from Python. So each thread of the team runs the
whole function, and waits for the others in compiled code, at a counter in memory that they all add to.
"""

import contextlib
import ctypes
import functools
import os
import queue
import sys
import threading

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

from tinyllama.backends.threads import THREAD_NAME

ARRIVED, CANCELLED = 0, 8       # places in the array `meeting`; each has a cache line of its own
PATIENCE = 1000                 # how often to look before giving the core to somebody else


def run_as_team(work, size):
    """Call work(rank, size, meeting) for every rank below `size`, all at the same time.

    work: hands its arguments on to a compiled function that releases the GIL, meets the other members with `meet`, for
    the last time at its end, and returns True; or False where a meeting was cancelled. The caller is the first member.
    It does not wait for the others to say that they are done: the last meeting was enough.

    One team works at a time in a process, others wait their turn. A worker thread works alone: it is one of several
    that share the cores already. An error of one member, or Ctrl-C, cancels the meeting and lets the others go.
    """
    meeting = np.zeros(CANCELLED + 1, np.int64)
    if size == 1 or threading.current_thread().name.startswith(THREAD_NAME):
        work(0, 1, meeting)
        return
    process = os.getpid()
    with _turn(process):
        try:
            others = _others(size - 1, process)
            others.keep_off_this_core()
            errors = queue.SimpleQueue()
            for rank, tasks in enumerate(others.tasks, 1):
                tasks.put(functools.partial(_work_or_cancel, work, rank, size, meeting, errors))
            if not work(0, size, meeting):
                raise errors.get()
        except BaseException:
            meeting[CANCELLED] = 1
            raise


def _work_or_cancel(work, rank, size, meeting, errors):
    try:
        work(rank, size, meeting)
    except BaseException as error:
        errors.put(error)
        meeting[CANCELLED] = 1


# One of each for a process: a forked child inherits neither the threads of its parent, nor the one that held its lock.

@functools.cache
def _turn(process):
    return threading.Lock()


@functools.cache
def _others(count, process):
    return _Others(count)


class _Others:
    """The threads of a team beside the caller.

    The system often wakes a thread on the core of the one that wakes it, and moves it elsewhere only after some
    milliseconds. By then a step of a small model would be over, at a third of its speed. So, on Linux, which lets us
    say it, they are kept off the core of the caller.

    Each takes its work from a queue of its own, whose `put` is one operation: Ctrl-C comes before it or after it. In
    the middle of what an executor does instead, it would leave a lock that nobody opens again.
    """

    def __init__(self, count):
        self.ids, self.tasks, self._placed = [], [queue.SimpleQueue() for _ in range(count)], None
        for number, tasks in enumerate(self.tasks):
            name = f"{THREAD_NAME}-team-{number}"
            threading.Thread(target=self._serve, args=(tasks,), name=name, daemon=True).start()

    def _serve(self, tasks):
        self.ids.append(threading.get_native_id())
        while True:
            tasks.get()()

    def keep_off_this_core(self):
        """Forbid these threads the core on which the caller runs now, if that leaves them another."""
        if _core_of_caller is None:
            return
        place = _core_of_caller(), len(self.ids)
        if place != self._placed:
            elsewhere = os.sched_getaffinity(0) - {place[0]}
            with contextlib.suppress(OSError):      # there may be no other core, or a sandbox that forbids it
                for thread in self.ids:
                    os.sched_setaffinity(thread, elsewhere)
            self._placed = place


# PyDLL, because a call through CDLL would let go of Python's lock, and take longer to get it back than the call takes.
_core_of_caller = getattr(ctypes.PyDLL(None), "sched_getcpu", None) if sys.platform.startswith("linux") else None


@register_jitable
def share(count, rank, size):
    """(first, last): the part of 0 .. count - 1 that falls to a member; all parts are equal but for one."""
    return count * rank // size, count * (rank + 1) // size


@register_jitable
def meet(meeting, number, size):
    """Wait in the meeting with this number, counted from 1, until all members have come; False if it is cancelled."""
    if size == 1:
        return True
    _add_one(meeting, ARRIVED)
    looked = 0
    while _read(meeting, ARRIVED) < number * size:
        if _read(meeting, CANCELLED) != 0:
            return False
        looked += 1
        if looked < PATIENCE:
            _pause()
        else:
            _let_others_run()
    return True


# ---- what Numba has no name for, in LLVM's words. Only a team of several gets here, so nothing runs uncompiled.

@intrinsic
def _add_one(typing, array, index):
    """array[index] += 1, as one operation that no other thread can come between."""
    def generate(context, builder, signature, args):
        place = _place(context, builder, signature, args)
        builder.atomic_rmw("add", place, ir.Constant(ir.IntType(64), 1), ordering="seq_cst")
        return context.get_dummy_value()
    return types.void(array, index), generate


@intrinsic
def _read(typing, array, index):
    """array[index] as it is now: what other members wrote before they added to it can be seen afterwards."""
    def generate(context, builder, signature, args):
        return builder.load_atomic(_place(context, builder, signature, args), ordering="seq_cst", align=8)
    return types.int64(array, index), generate


@intrinsic
def _pause(typing):
    """Tell the core that this thread is waiting; nothing where LLVM has no such instruction."""
    def generate(context, builder, signature, args):
        if builder.module.triple.startswith("x86_64"):
            _call(builder, "llvm.x86.sse2.pause", ir.VoidType(), [])
        return context.get_dummy_value()
    return types.void(), generate


@intrinsic
def _let_others_run(typing):
    """Give the core to another thread that wants it, where the system is POSIX."""
    def generate(context, builder, signature, args):
        if os.name == "posix":
            _call(builder, "sched_yield", ir.IntType(32), [])
        return context.get_dummy_value()
    return types.void(), generate


def _place(context, builder, signature, args):
    array = context.make_array(signature.args[0])(context, builder, args[0])
    return builder.gep(array.data, [args[1]])


def _call(builder, name, result, arguments):
    function = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), arguments)
