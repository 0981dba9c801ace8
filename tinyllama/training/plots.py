"""The picture of a training run."""

from matplotlib.figure import Figure

# From the palette of Okabe & Ito, which the colour-blind can tell apart; line styles and markers differ too.
LIGHT = {"background": "white", "ink": "black", "training": "#0072B2", "validation": "#D55E00", "floor": "#000000"}
DARK = {"background": "#111111", "ink": "#EEEEEE", "training": "#56B4E9", "validation": "#E69F00", "floor": "#F0E442"}


def save_loss_plot(path, losses, validation, *, title, floor=None, colors=LIGHT):
    """Draw the loss of every step and the validation losses, and save it as a PNG on an opaque background.

    losses: nats per token, one a step. validation: a list of (step, loss), the step being the number of updates made.
    floor: the entropy of the data in nats per token, which no model can pass on average; None where nobody knows it.
    colors: LIGHT or DARK.
    """
    ink = colors["ink"]
    figure = Figure(figsize=(8, 4.5), dpi=120, facecolor=colors["background"], layout="constrained")
    axes = figure.add_subplot(facecolor=colors["background"])
    steps = range(1, len(losses) + 1)
    axes.plot(steps, losses, color=colors["training"], alpha=0.25, linewidth=0.8)
    axes.plot(steps, _running_mean(losses), color=colors["training"], linewidth=1.8,
              label="training, mean of recent steps")
    if validation:
        axes.plot(*zip(*validation, strict=True), color=colors["validation"], linestyle="--", marker="o", markersize=4,
                  label=f"validation, last {validation[-1][1]:.3f}")
    if floor is not None:
        axes.axhline(floor, color=colors["floor"], linestyle=":", linewidth=1.8,
                     label=f"entropy of the data, {floor:.3f}")
    axes.set_title(title, parse_math=False, color=ink)      # a file may have a $ in its name
    axes.set_xlabel("steps (updates of the weights)", color=ink)
    axes.set_ylabel("loss (nats per token)", color=ink)
    axes.tick_params(colors=ink)
    for spine in axes.spines.values():
        spine.set_edgecolor(ink)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, labelcolor=ink)
    figure.savefig(path)


def _running_mean(values, decay=0.9):
    means, weighted, weight = [], 0.0, 0.0
    for value in values:
        weighted, weight = decay * weighted + value, decay * weight + 1
        means.append(weighted / weight)
    return means
