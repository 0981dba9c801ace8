"""Write `tests/golden/ops.npz`: PyTorch's results and gradients for every case of `tinyllama.course.cases`.

With it the comparison with PyTorch runs where PyTorch is not installed. Run by hand, after a case was added or changed:

    PYTHONPATH=tests/support python tests/golden/make_ops.py
"""

from pathlib import Path

import numpy as np
from torch_ops import torch_answer

from tinyllama.course.cases import cases

GOLDEN = Path(__file__).with_name("ops.npz")


def main():
    answers = {f"{case.op} | {case.label} | {name}": array
               for case in cases() for name, array in torch_answer(case).items()}
    np.savez_compressed(GOLDEN, **answers)
    print(f"{GOLDEN}: {len(answers)} arrays of {len(cases())} cases, {GOLDEN.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
