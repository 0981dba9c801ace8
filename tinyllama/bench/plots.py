"""The figures of a benchmark: the roofline of a training step, and how a step grows."""

from matplotlib.figure import Figure

from tinyllama.bench.timing import REST

# From the palette of Okabe & Ito, which the colour-blind can tell apart; markers, line styles and labels differ too.
INK, TIME, MEMORY, GUIDE = "black", "#0072B2", "#D55E00", "#000000"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000", "#999999")
MARKERS = {"forward": "o", "backward": "s"}
NAMED_SHARE = 0.02          # of the step: an operation that takes less has no name beside its point
LABELS = {"context": "sequence length (tokens)", "batch_size": "batch (rows)", "hidden_size": "width (features)",
          "cores": "cores"}


def save_roofline(path, training, limits):
    """Draw the operations of a training step under the two limits of the machine, on a white background.

    Each operation is a point: to the right, how much it computes for each byte that it must move; upwards, how fast it
    ran. It cannot stand above the lines, but where its data were still in a cache. training, limits: as `as_json`
    makes them. Operations that only move data have no place here.
    """
    figure = Figure(figsize=(9, 5.5), dpi=120, facecolor="white", layout="constrained")
    axes = figure.subplots()
    rows = [row for row in training["operations"] if row["operation"] != REST and row["gflop"] > 0]
    names = list(dict.fromkeys(_name_and_way(row)[0] for row in rows))
    for row in rows:
        name, way = _name_and_way(row)
        point = row["gflop"] / row["gb"], row["gflops"]
        axes.loglog(*point, linestyle="none", marker=MARKERS.get(way, "^"), markersize=8, markeredgecolor=INK,
                    markeredgewidth=0.5, color=COLORS[names.index(name) % len(COLORS)],
                    label=f"{row['operation']}, {row['share_of_step']:.1%}")
        if row["share_of_step"] >= NAMED_SHARE:
            side, ha = (-7, "right") if way == "forward" else (7, "left")
            axes.annotate(row["operation"], point, xytext=(side, -3), textcoords="offset points", fontsize=7, ha=ha)
    left, right = axes.get_xlim()
    ridge = limits["gflops"] / limits["gb_per_second"]
    left, right = min(left, ridge / 4), 5 * max(right, ridge)        # to the right, room for names
    axes.plot([left, ridge], [left * limits["gb_per_second"], limits["gflops"]], color=INK, linestyle="--",
              label=f"reading memory, {limits['gb_per_second']:.1f} GB/s")
    axes.plot([ridge, right], [limits["gflops"]] * 2, color=INK, linestyle="-",
              label=f"matrix products, {limits['gflops']:,.0f} GFLOP/s")
    axes.set_title(f"A training step under the limits of this machine: {training['size']}, {training['backend']}, "
                   f"{training['step_ms']:.0f} ms", color=INK)
    axes.set_xlabel("intensity (FLOP for each byte that must be moved)")
    axes.set_ylabel("rate (GFLOP/s)")
    axes.grid(alpha=0.25, which="both")
    figure.legend(loc="outside right upper", frameon=False, fontsize=8, title="operation, share of the step")
    figure.savefig(path)


def save_growth(path, growth):
    """Draw time and peak memory of a step against each thing that grows, doubling by doubling, on white.

    growth: as `as_json` makes it. A dotted line shows what growth in proportion would be; with the cores, what halving
    with every doubling would be.
    """
    has_memory = all(point["peak_mb"] for points in growth.values() for point in points)
    kinds = [("step_ms", "time of a step (ms)", TIME, "o")]
    if has_memory:
        kinds.append(("peak_mb", "peak memory (MB)", MEMORY, "s"))
    figure = Figure(figsize=(3 * len(growth) + 1, 3 * len(kinds)), dpi=120, facecolor="white", layout="constrained")
    panels = figure.subplots(len(kinds), len(growth), squeeze=False)
    for column, (name, points) in enumerate(growth.items()):
        values = [point["value"] for point in points]
        for row, (key, label, color, marker) in enumerate(kinds):
            axes, measured = panels[row][column], [point[key] for point in points]
            axes.loglog(values, measured, color=color, marker=marker, base=2, label="measured")
            if name != "cores":
                guide = [measured[-1] * value / values[-1] for value in values]
                axes.loglog(values, guide, color=GUIDE, linestyle=":", base=2, label="in proportion")
            elif key == "step_ms":
                guide = [measured[0] * values[0] / value for value in values]
                axes.loglog(values, guide, color=GUIDE, linestyle=":", base=2, label="twice as fast each time")
            axes.set_ylim(axes.get_ylim()[0] / 1.4, axes.get_ylim()[1] * 1.4)
            axes.set_xticks(values, [f"{value:,}" for value in values])
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.4g}")
            axes.set_xlabel(LABELS[name])
            axes.set_ylabel(label)
            axes.grid(alpha=0.25)
            axes.legend(frameon=False, fontsize=8)
    figure.suptitle("How a training step grows")
    figure.savefig(path)


def _name_and_way(row):
    name, _, way = row["operation"].rpartition("_")
    return (name, way) if way in MARKERS else (row["operation"], "")
