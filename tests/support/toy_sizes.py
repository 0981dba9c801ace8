"""A size so small that its benchmarks take no time, and limits of a machine that never was."""

from tinyllama.bench.limits import Limits
from tinyllama.bench.sizes import Size

TOY = Size("toy", hidden_size=16, layers=2, heads=2, intermediate_size=24, vocab_size=31, batch_size=4, context=32)
LIMITS = Limits(flop_per_second=200e9, bytes_per_second=40e9)


def finite_numbers(facts, path=""):
    """The path of every number in nested dictionaries and lists, after a look at whether each is finite."""
    import math
    if isinstance(facts, dict):
        return [found for key, value in facts.items() for found in finite_numbers(value, f"{path}/{key}")]
    if isinstance(facts, list):
        return [found for value in facts for found in finite_numbers(value, path)]
    if isinstance(facts, int | float):
        assert math.isfinite(facts), path
        return [path]
    assert facts is None or isinstance(facts, str), path
    return []
