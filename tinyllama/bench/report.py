"""The measurements as tables on the screen, from the dictionaries that `as_json` makes."""

from rich import box
from rich.table import Table

from tinyllama.bench.timing import REST

LEGEND = """\
GFLOP and GB are what an operation has to do at least: every input read once, every output written once. "of it" is
the share of what this machine can do, and "bound" names the limit that the operation meets first. More than 100% of
the reading rate means that the data were still in a cache. The rest is Python, NumPy between the operations, waiting.
"""

COUNT = """\
The model's operations: 6 · (weights in products) · tokens + 12 · layers · batch · heads · head_dim · T (T + 1) / 2, the
second for causal attention, which sees half of the T² pairs. Nothing that is computed twice is counted."""


def print_limits(console, machine, limits):
    """The machine, and what it can do."""
    cores = f"{machine['cores']} core{'s' if machine['cores'] > 1 else ''}"
    _say(console, f"{machine['processor']}, {cores}, {machine['memory_bytes'] / 2**30:.0f} GiB, {machine['system']}")
    _say(console, f"matrix products   {limits['gflops']:8,.1f} GFLOP/s in float32, on all cores")
    _say(console, f"reading memory    {limits['gb_per_second']:8,.1f} GB/s, on all cores")


def print_training(console, training):
    """Where a step goes, and how fast it is."""
    table = _table(f"\na training step, {training['size']}, backend {training['backend']}, workers "
                   f"{training['workers']}", "operation", "calls", "ms", "step", "GFLOP", "GFLOP/s", "of it", "GB",
                   "GB/s", "of it", "bound")
    for row in training["operations"]:
        cells = [row["operation"], "", f"{row['ms']:.2f}", f"{row['share_of_step']:.1%}"]
        if row["operation"] != REST:
            cells[1] = str(row["calls"])
            cells += [_short(row["gflop"]), f"{row['gflops']:.1f}", f"{row['share_of_products']:.0%}",
                      _short(row["gb"]), f"{row['gb_per_second']:.1f}", f"{row['share_of_memory']:.0%}",
                      row["bound_by"]]
        table.add_row(*cells)
    table.add_section()
    table.add_row("the step", "", f"{training['step_ms']:.2f}", "100.0%")
    console.print(table)
    _say(console, LEGEND)
    low, high = training["step_ms_quartiles"]
    _say(console, f"step      {training['step_ms']:.1f} ms, the median of {training['steps']}, whose quartiles are "
                  f"{low:.1f} and {high:.1f}; {training['tokens_per_second']:,.0f} tokens/s")
    _say(console, f"model     {training['model_gflop']:.2f} GFLOP a step, {training['model_gflops']:.1f} GFLOP/s: "
                  f"{training['share_of_products']:.1%} of the rate of matrix products")
    _say(console, COUNT)


def print_decoding(console, decodings):
    """How fast a model writes, a row for each kind of weights."""
    table = _table(f"\nwriting a token, {decodings[0]['size']}, backend {decodings[0]['backend']}", "weights",
                   "tokens/s", "ms", "MB of weights", "GB/s", "possible", "of it", "MB of keys and values")
    for row in decodings:
        table.add_row(row["weights"], f"{row['tokens_per_second']:,.0f}", f"{row['token_ms']:.3f}",
                      f"{row['weight_mb']:.1f}", f"{row['weights_gb_per_second']:.1f}",
                      f"{row['read_gb_per_second']:.1f}", f"{row['share_of_memory']:.0%}",
                      f"{row['keys_and_values_mb']:.2f}")
    console.print(table)
    _say(console, "Every token reads all weights once. Possible: the rate of reading memory, measured in turns with "
                  "the writing.\nWeights that fit into a cache can be read faster.")


def print_comparison(console, comparison):
    """Ours beside PyTorch's."""
    table = _table(f"\na training step, {comparison['size']}: ours and PyTorch's, in turns", "", "ms", "times ours",
                   "quartiles", "peak MB", "of eager's", "with")
    sides = comparison["sides"]
    eager_peak = sides.get("eager", {}).get("peak_mb")
    for kind, side in sides.items():
        ratio, peak = comparison["times_as_long_as_ours"].get(kind), side["peak_mb"]
        settings = (f"{side['backend']}, workers {side['workers']}" if kind == "ours" else
                    f"PyTorch {side['torch']}, threads {side['threads']}")
        table.add_row(kind, f"{side['step_ms']:.1f}", f"{ratio['ratio']:.2f}" if ratio else "",
                      f"{ratio['low']:.2f} to {ratio['high']:.2f}" if ratio else "", f"{peak:.0f}" if peak else "",
                      f"{peak / eager_peak:.2f}" if peak and eager_peak else "", settings)
    console.print(table)
    for message in dict.fromkeys(comparison["failed"].values()):
        _say(console, message)
    _say(console, "Times ours: the ratio of the medians, and the quartiles of the ratios of single rounds. Peak: the "
                  "memory of two steps above\nthat of importing the packages.")


def print_growth(console, growth):
    """One table for each thing that grows."""
    for name, points in growth.items():
        table = _table(f"\na training step as {name} grows", name, "threads", "tokens", "ms", "times", "tokens/s",
                       "peak MB", "times")
        before = None
        for point in points:
            peak = point["peak_mb"]
            table.add_row(
                f"{point['value']:,}", str(point["workers"]), f"{point['tokens']:,}", f"{point['step_ms']:.1f}",
                f"{point['step_ms'] / before['step_ms']:.2f}" if before else "",
                f"{1e3 * point['tokens'] / point['step_ms']:,.0f}", f"{peak:.0f}" if peak else "",
                f"{peak / before['peak_mb']:.2f}" if before and peak else "")
            before = point
        console.print(table)
    _say(console, "Times: to the row above. Peak: the memory of the steps above that of importing the packages.")


def _table(title, first, *others):
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(first, no_wrap=True)
    for heading in others:
        is_text = heading in ("bound", "with")
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=not is_text)
    return table


def _say(console, text):
    """Print a text as it is: rich would break its lines, and colour its numbers."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _short(value):
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"
