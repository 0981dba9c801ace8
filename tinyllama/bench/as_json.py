"""The measurements as plain numbers with units in their names; benchmarks/README.md says what each is."""

import statistics

from tinyllama.bench.quartiles import quartiles
from tinyllama.bench.timing import REST


def limits_as_json(limits):
    """{"gflops", "gb_per_second"}."""
    return {"gflops": limits.flop_per_second / 1e9, "gb_per_second": limits.bytes_per_second / 1e9}


def training_as_json(profile, limits):
    """A training step and its operations."""
    size, seconds = profile.size, profile.seconds
    return {
        "size": size.name, "backend": profile.backend, "workers": profile.workers, "parameters": profile.parameters,
        "tokens": size.tokens, "steps": len(profile.times), "step_ms": 1e3 * seconds,
        "step_ms_quartiles": [1e3 * value for value in quartiles(profile.times)],
        "tokens_per_second": size.tokens / seconds, "model_gflop": profile.flop / 1e9,
        "model_gflops": profile.flop / seconds / 1e9,
        "share_of_products": profile.flop / seconds / limits.flop_per_second,
        "operations": [_row_as_json(row, seconds, limits) for row in profile.rows],
    }


def _row_as_json(row, step_seconds, limits):
    facts = {"operation": row.op, "calls": row.calls, "ms": 1e3 * row.seconds, "share_of_step":
             row.seconds / step_seconds, "gflop": row.flop / 1e9, "gb": row.bytes / 1e9}
    if row.op == REST:
        return facts
    least, bound = limits.seconds(row.flop, row.bytes)
    flops, rate = row.flop / row.seconds, row.bytes / row.seconds
    return facts | {
        "gflops": flops / 1e9, "share_of_products": flops / limits.flop_per_second, "gb_per_second": rate / 1e9,
        "share_of_memory": rate / limits.bytes_per_second, "bound_by": bound, "share_of_bound": least / row.seconds}


def decoding_as_json(profile):
    """Writing one token after another."""
    return {
        "size": profile.size.name, "backend": profile.backend, "weights": profile.weights,
        "tokens_per_second": 1 / profile.seconds, "token_ms": 1e3 * profile.seconds,
        "weight_mb": profile.weight_bytes / 1e6, "keys_and_values_mb": profile.cache_bytes / 1e6,
        "weights_gb_per_second": profile.weight_bytes / profile.seconds / 1e9,
        "read_gb_per_second": statistics.median(profile.read_rates) / 1e9, "share_of_memory": profile.share_of_memory,
    }


def comparison_as_json(comparison):
    """Ours and PyTorch's, with the ratios."""
    return {
        "size": comparison.size.name,
        "sides": {kind: side.facts | {"step_ms": 1e3 * side.seconds, "steps": sum(map(len, side.rounds)),
                                      "step_ms_rounds": [1e3 * statistics.median(turn) for turn in side.rounds],
                                      "peak_mb": side.peak and side.peak / 1e6}
                  for kind, side in comparison.sides.items()},
        "times_as_long_as_ours": {kind: comparison.ratio(kind)._asdict() for kind in comparison.sides
                                  if kind != "ours"},
        "failed": comparison.failed,
    }


def growth_as_json(growth):
    """{what grows: a list of points}."""
    return {name: [{"value": point.value, "workers": point.workers, "tokens": point.size.tokens,
                    "step_ms": 1e3 * point.seconds, "peak_mb": point.peak and point.peak / 1e6} for point in points]
            for name, points in growth.items()}
