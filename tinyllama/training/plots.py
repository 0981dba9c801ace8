"""The picture of a training run."""

from matplotlib.figure import Figure

# From the palette of Okabe & Ito, which the colour-blind can tell apart; line styles and markers differ too.
LIGHT = {"background": "white", "ink": "black", "training": "#0072B2", "validation": "#D55E00", "floor": "#000000"}
DARK = {"background": "#111111", "ink": "#EEEEEE", "training": "#56B4E9", "validation": "#E69F00", "floor": "#F0E442"}


def save_loss_plot(path, losses, validation, *, title, floor=None, colors=LIGHT):
    """Draw the loss of every step and the validation losses, and save it as a PNG on an opaque background.

    losses: nats per token, one a step. validation: a list of (step, loss), the step being the number of updates made.
    floor: the entropy of the data in nats per token, which no model can pass on average; None where nobody knows it.
    Where it is known, a second panel shows how far above it the validation losses are. colors: LIGHT or DARK.
    """
    figure = Figure(figsize=(8, 4.5), dpi=120, facecolor=colors["background"], layout="constrained")
    has_excess = floor is not None and any(loss > floor for _, loss in validation)
    panels = figure.subplots(1 + has_excess, sharex=True, squeeze=False)[:, 0]
    axes = panels[0]
    steps = range(1, len(losses) + 1)
    axes.plot(steps, losses, color=colors["training"], alpha=0.25, linewidth=0.8)
    axes.plot(steps, _running_mean(losses), color=colors["training"], linewidth=1.8,
              label="training, mean of recent steps")
    dots = {"color": colors["validation"], "linestyle": "--", "marker": "o", "markersize": 4}
    if validation:
        axes.plot(*zip(*validation, strict=True), **dots, label=f"validation, last {validation[-1][1]:.3f}")
    if floor is not None:
        axes.axhline(floor, color=colors["floor"], linestyle=":", linewidth=1.8,
                     label=f"entropy of the data, {floor:.3f}")
    axes.set_title(title, parse_math=False, color=colors["ink"])        # a file may have a $ in its name
    axes.set_ylabel("loss (nats per token)", color=colors["ink"])
    if has_excess:
        excess = [(step, loss - floor) for step, loss in validation if loss > floor]
        panels[1].semilogy(*zip(*excess, strict=True), **dots, label="validation above the entropy")
        panels[1].set_ylabel("excess (nats per token)", color=colors["ink"])
    panels[-1].set_xlabel("steps (updates of the weights)", color=colors["ink"])
    for axes in panels:
        axes.set_facecolor(colors["background"])
        axes.tick_params(which="both", colors=colors["ink"])
        for spine in axes.spines.values():
            spine.set_edgecolor(colors["ink"])
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, labelcolor=colors["ink"])
    figure.savefig(path)


def _running_mean(values, decay=0.9):
    means, weighted, weight = [], 0.0, 0.0
    for value in values:
        weighted, weight = decay * weighted + value, decay * weight + 1
        means.append(weighted / weight)
    return means
