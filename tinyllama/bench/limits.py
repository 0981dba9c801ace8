"""What this machine can do at most: a rate of matrix products, and a rate at which memory is read.

No step can be faster than its arithmetic at the first rate, nor than its traffic with memory at the second.
"""

import time
from typing import NamedTuple

import numpy as np

from tinyllama.backends.threads import blas_threads, cores, memory_bytes, run_in_threads

PRODUCT_SIZES = (512, 768, 1024)    # n of an (n, n) @ (n, n) product: large enough to hide what surrounds it
PRODUCT_SECONDS = 0.1               # how long a round of products takes, about
LARGEST_ARRAY = 2**30               # bytes that all cores read together: more than any cache holds
ROUNDS = 6


class Limits(NamedTuple):
    """The best of several rounds, with a thread on every core."""

    flop_per_second: float      # float32 matrix products, n³ multiplications and n³ additions each
    bytes_per_second: float     # reading

    def seconds(self, flop, bytes):
        """The least time for so many operations and so much traffic, and what binds it: "products" or "memory"."""
        arithmetic, traffic = flop / self.flop_per_second, bytes / self.bytes_per_second
        return max(arithmetic, traffic), "products" if arithmetic >= traffic else "memory"


def measure_limits(say=lambda text: None, *, product_sizes=PRODUCT_SIZES, array_bytes=None, rounds=ROUNDS):
    """Measure both: a few seconds. say(text) is told what is going on.

    array_bytes: how much all cores read together; None is a gigabyte, or a sixteenth of the memory if that is less.
    """
    say("this machine's limits: matrix products")
    flop_per_second = max(_product_rate(n, rounds) for n in product_sizes)
    say("this machine's limits: reading from memory")
    return Limits(flop_per_second, read_rate(array_bytes, rounds))


def _product_rate(n, rounds):
    """FLOP/s of (n, n) @ (n, n) on all cores at once, one BLAS thread in each."""
    rng = np.random.default_rng(0)
    factors = [rng.random((2, n, n), dtype=np.float32) for _ in range(cores())]
    results = [np.empty((n, n), np.float32) for _ in range(cores())]

    def multiply(i, count):
        for _ in range(count):
            np.matmul(*factors[i], out=results[i])

    with blas_threads(1):
        once = _best_time(lambda i: multiply(i, 1), rounds=2)
        count = max(1, round(PRODUCT_SECONDS / once))
        return cores() * count * 2 * n**3 / _best_time(lambda i: multiply(i, count), rounds)


def read_rate(array_bytes=None, rounds=ROUNDS):
    """Bytes a second of a sum over an array, each core having a piece of it. array_bytes: see `measure_limits`."""
    size = min(LARGEST_ARRAY, memory_bytes() // 16) if array_bytes is None else array_bytes
    pieces = [np.ones(max(size // 4 // cores(), 1), np.float32) for _ in range(cores())]
    return sum(piece.nbytes for piece in pieces) / _best_time(lambda i: pieces[i].sum(), rounds)


def _best_time(work, rounds):
    """The shortest time in which work(0), work(1), ... ran, one in a thread on each core."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run_in_threads([lambda i=i: work(i) for i in range(cores())])
        times.append(time.perf_counter() - start)
    return min(times)
