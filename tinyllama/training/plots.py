"""The picture of a training run."""

from matplotlib.figure import Figure

BLUE, ORANGE = "#0072B2", "#D55E00"     # from the palette of Okabe & Ito, which the colour-blind can tell apart


def save_loss_plot(path, losses, validation, *, title):
    """Draw the loss of every step and the validation losses, and save it as a PNG on white.

    losses: nats per token, one a step. validation: a list of (step, loss), the step being the number of updates made.
    """
    figure = Figure(figsize=(8, 4.5), dpi=120, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    axes.plot(range(1, len(losses) + 1), losses, color=BLUE, alpha=0.25, linewidth=0.8)
    axes.plot(range(1, len(losses) + 1), _running_mean(losses), color=BLUE, linewidth=1.8,
              label="training, mean of recent steps")
    if validation:
        axes.plot(*zip(*validation, strict=True), color=ORANGE, linestyle="--", marker="o", markersize=4,
                  label=f"validation, last {validation[-1][1]:.3f}")
    axes.set_title(title, parse_math=False)         # a file may have a $ in its name
    axes.set(xlabel="steps (updates of the weights)", ylabel="loss (nats per token)")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path)


def _running_mean(values, decay=0.9):
    means, weighted, weight = [], 0.0, 0.0
    for value in values:
        weighted, weight = decay * weighted + value, decay * weight + 1
        means.append(weighted / weight)
    return means
