"""How long a training step takes: forward, backward, clip, AdamW, in float32 on random tokens.

    python benchmarks/training_step.py nano M --backend numpy

Prints one JSON line for each size: the median time of a step in milliseconds, tokens a second, and parameters.
"""

import argparse
import json
import statistics
import time

import numpy as np

import tinyllama as tl
from tinyllama.backends.memory import keep_freed_memory

# hidden_size, layers, heads, intermediate_size, vocab_size, batch_size, context
SIZES = {
    "nano": (128, 4, 4, 344, 65, 12, 64),
    "char": (192, 6, 6, 512, 256, 32, 128),
    "M": (288, 6, 6, 768, 4096, 8, 256),
    "L": (512, 8, 8, 1376, 4096, 4, 256),
}


def measure(size, *, backend, workers, repeats, warmup=2):
    """The times of `repeats` steps in seconds, after some that do not count, and the model."""
    hidden_size, layers, heads, intermediate_size, vocab_size, batch_size, context = SIZES[size]
    config = tl.LlamaConfig(vocab_size=vocab_size, hidden_size=hidden_size, intermediate_size=intermediate_size,
                            num_hidden_layers=layers, num_attention_heads=heads, max_position_embeddings=context,
                            tie_word_embeddings=True)
    model = tl.Llama(config, backend=backend, workers=workers)
    optimizer = tl.AdamW(model)
    ids, targets = np.random.default_rng(0).integers(0, vocab_size, (2, batch_size, context))
    times = []
    for _ in range(warmup + repeats):
        start = time.perf_counter()
        model.loss_and_grads(ids, targets)
        optimizer.step(max_grad_norm=1.0)
        model.backend.synchronize()
        times.append(time.perf_counter() - start)
    return times[warmup:], model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="+", choices=SIZES)
    parser.add_argument("--backend", default="numpy")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--repeats", type=int, default=8)
    arguments = parser.parse_args()
    keep_freed_memory()         # as a training run does
    for size in arguments.sizes:
        times, model = measure(size, backend=arguments.backend, workers=arguments.workers, repeats=arguments.repeats)
        batch_size, context = SIZES[size][-2:]
        median = statistics.median(times)
        print(json.dumps({"size": size, "backend": arguments.backend, "ms": round(median * 1e3, 1),
                          "tokens_per_second": round(batch_size * context / median),
                          "parameters": sum(weight.size for weight in model.parameters.values())}), flush=True)


if __name__ == "__main__":
    main()
