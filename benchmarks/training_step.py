"""How long a training step takes: forward, backward, clip, AdamW, in float32 on random tokens.

    python benchmarks/training_step.py nano M --backend numba

Prints one JSON line for each size: the median time of a step in milliseconds, tokens a second, and parameters.
`tinyllama bench` shows where that time goes.
"""

import argparse
import json
import statistics

from tinyllama.bench.sizes import SIZES
from tinyllama.bench.steps import our_step, seconds_of

WARM_UP = 2         # steps that do not count


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="+", choices=SIZES)
    parser.add_argument("--backend")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--repeats", type=int, default=8)
    arguments = parser.parse_args()
    for size in map(SIZES.get, arguments.sizes):
        step, model = our_step(size, backend=arguments.backend, workers=arguments.workers)
        median = statistics.median([seconds_of(step) for _ in range(WARM_UP + arguments.repeats)][WARM_UP:])
        print(json.dumps({"size": size.name, "backend": model.backend.name, "ms": round(median * 1e3, 1),
                          "tokens_per_second": round(size.tokens / median),
                          "parameters": sum(weight.size for weight in model.parameters.values())}), flush=True)


if __name__ == "__main__":
    main()
