"""How long the first training step takes after a fresh install, and how long in every later process.

    python benchmarks/first_step.py --size M

The compiled backend compiles its kernels on their first use and keeps them on disk. This starts one process whose
folder for them is empty and a second one that finds it filled, and prints a JSON line: the seconds from the start of
each process to the end of its first step, imports and the making of the model included, and those of the step alone.
"""

import argparse
import json
import tempfile
import time

from tinyllama.bench.contestant import Contestant
from tinyllama.bench.sizes import SIZES, find_size


def first_step(size, backend, folder):
    """(seconds since the process was started, seconds of the step, the name of the backend)."""
    start = time.perf_counter()
    with Contestant("ours", size, backend=backend, environment={"NUMBA_CACHE_DIR": folder}) as contestant:
        step = contestant.steps(1)["seconds"][0]
        return time.perf_counter() - start, step, contestant.facts["backend"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="M")
    parser.add_argument("--backend")
    arguments = parser.parse_args()
    facts = {"size": arguments.size}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("fresh", "later"):
            whole, step, facts["backend"] = first_step(find_size(arguments.size), arguments.backend, folder)
            facts |= {f"{name}_s": round(whole, 2), f"{name}_step_s": round(step, 2)}
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
