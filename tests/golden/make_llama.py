"""Write the golden file that the parity tests use where transformers is not installed, or print how close we come.

    PYTHONPATH=tests/support python tests/golden/make_llama.py           write tests/golden/llama.npz
    PYTHONPATH=tests/support python tests/golden/make_llama.py --table   measure, write nothing

The file holds, for each case, the logits, the loss and every gradient of transformers in float64 throughout. The
weights are not in it: both sides draw them from the same bits, see llama_cases.py. The committed one was made by
transformers 5.23 and torch 2.13.
"""

import argparse
from pathlib import Path

import float64_transformers
import llama_cases as cases
import numpy as np

GOLDEN = Path(__file__).with_name("llama.npz")


def write():
    arrays = {}
    for case in cases.CASES:
        with float64_transformers.in_float64():
            arrays.update({f"{case}/{name}": value for name, value in float64_transformers.run(case).items()})
    np.savez_compressed(GOLDEN, **arrays)
    print(f"{GOLDEN}: {len(arrays)} arrays, {GOLDEN.stat().st_size / 1000:.0f} kB")


def table():
    print(f"{'case':20}{'transformers':20}{'logits':>9}{'loss':>9}{'gradients':>11}  worst gradient")
    for case in cases.CASES:
        with float64_transformers.in_float64():
            report(case, "float64 throughout", cases.run(case), float64_transformers.run(case))
        report(case, "float64 as it is", cases.run(case), float64_transformers.run(case))
        report(case, "float32 as it is", cases.run(case, "float32"), float64_transformers.run(case, "float32"))


def report(case, how, got, expected):
    error = cases.errors(got, expected)
    logits, loss = error.pop("logits"), error.pop("loss")
    worst = max(error, key=error.get)
    print(f"{case:20}{how:20}{logits:9.1e}{loss:9.1e}{error[worst]:11.1e}  {worst}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the largest errors instead")
    (table if parser.parse_args().table else write)()
