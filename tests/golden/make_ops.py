"""Write `tests/golden/ops.npz`: PyTorch's results and gradients for every case of `tinyllama.course.cases`.

With it the comparison with PyTorch runs where PyTorch is not installed. Run by hand, after a case was added or changed:

    PYTHONPATH=tests/support python tests/golden/make_ops.py            write the file
    PYTHONPATH=tests/support python tests/golden/make_ops.py --table    print how close we come, write nothing
"""

import argparse
from pathlib import Path

import numpy as np
from on_host import OnHost, relative_error
from torch_ops import torch_answer

from tinyllama.backends import load_backend
from tinyllama.course.cases import cases
from tinyllama.ops import DIFFERENTIABLE

GOLDEN = Path(__file__).with_name("ops.npz")


def write():
    answers = {f"{case.op} | {case.label} | {name}": array
               for case in cases() for name, array in torch_answer(case).items()}
    np.savez_compressed(GOLDEN, **answers)
    print(f"{GOLDEN}: {len(answers)} arrays of {len(cases())} cases, {GOLDEN.stat().st_size / 1000:.0f} kB")


def table():
    ops = OnHost(load_backend("numpy"))
    print(f"{'operation':22}{'cases':>6}{'value':>9}{'gradients':>11}   largest error, relative to the largest element")
    for op in DIFFERENTIABLE:
        values, gradients = [], []
        for case in cases(op):
            answer = torch_answer(case)
            y, received, _ = ops.run(case, answer["dy"])
            expected = [array for name, array in sorted(answer.items()) if name.startswith("gradient")]
            values.append(relative_error(y, answer["y"]))
            gradients += [relative_error(mine, theirs) for mine, theirs in
                          zip([gradient for gradient in received if gradient is not None], expected, strict=True)]
        print(f"{op:22}{len(values):6}{max(values):9.1e}{max(gradients):11.1e}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the largest errors instead")
    (table if parser.parse_args().table else write)()
