"""Whether freed memory is kept, seen by how many fresh pages a process asks the system for."""

import subprocess
import sys

import pytest

CODE = """
import resource
import numpy as np
from tinyllama.backends.memory import keep_freed_memory

print(keep_freed_memory() if {keep} else None)
for _ in range(3):
    np.empty(8_000_000)[...] = 1                # 64 MB, that is 15,625 pages
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.empty(8_000_000)[...] = 1
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(keep):
    done = subprocess.run([sys.executable, "-c", CODE.format(keep=keep)], capture_output=True, text=True, check=True)
    answer, faults = done.stdout.split()
    return answer, int(faults)


def test_an_array_like_the_last_one_needs_no_fresh_pages():
    if not sys.platform.startswith("linux"):
        pytest.skip("The setting exists only where the C library is glibc.")
    answer, faults = run(keep=True)
    if answer == "False":
        pytest.skip("The C library here is not glibc.")
    assert (answer, faults < 100) == ("True", True)
    _, without = run(keep=False)
    assert without > 1000       # so that there is something to keep; with huge pages fewer than 156,250
