"""Draws the picture at the top of README from a trained run.

    python chapters/figures/first_light.py runs/shakespeare-1

On the left, one block of the model with the shape of every array, forward down and backward up; on the right, what one
head of the trained model looks at in a line of text, and the loss of the run.
"""

import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

import tinyllama as tl
from tinyllama.nn import Context
from tinyllama.training.metrics import read_metrics

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"      # from the palette of Okabe & Ito
LINE = "To be, or not to be, that is the"


def draw_block(axes, model, batch, length):
    """The rooms of a LLaMA as boxes, with the shape that leaves each of them."""
    config = model.config
    hidden = f"({batch}, {length}, {config.hidden_size})"
    heads = f"({batch}, {config.num_attention_heads}, {length}, {config.head_dim})"
    qkv_features = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    qkv = f"({batch}, {length}, {qkv_features})"
    gate_up = f"({batch}, {length}, {2 * config.intermediate_size})"
    inside = f"({batch}, {length}, {config.intermediate_size})"
    logits = f"({batch}, {length}, {config.vocab_size})"
    rooms = [       # name, shape of the result, whether it belongs to the block
        ("embedding", hidden, False),
        ("rmsnorm", hidden, True), ("linear  q, k, v", qkv, True), ("rope  q, k", heads, True),
        ("attention", heads, True), ("linear  o,  add", hidden, True),
        ("rmsnorm", hidden, True), ("linear  gate, up", gate_up, True), ("swiglu", inside, True),
        ("linear  down,  add", hidden, True),
        ("rmsnorm", hidden, False), ("linear  logits", logits, False), ("cross_entropy", "loss: ()", False),
    ]
    forward, backward = ({"arrowstyle": "->", "color": color, "lw": 1.8} for color in (BLUE, ORANGE))
    for i, (name, shape, in_block) in enumerate(rooms):
        y, color = -i, GREEN if in_block else GREY
        axes.add_patch(FancyBboxPatch((1.0, y - 0.3), 3.1, 0.6, boxstyle="round,pad=0.02", facecolor="white",
                                      edgecolor=color, linewidth=1.6))
        axes.text(1.15, y, name, va="center", fontsize=10.5, family="monospace")
        axes.text(4.45, y, shape, va="center", fontsize=9.5, color=GREY, family="monospace")
        if i:
            axes.annotate("", (1.5, y + 0.28), (1.5, y + 0.72), arrowprops=forward)
            axes.annotate("", (3.6, y + 0.72), (3.6, y + 0.28), arrowprops=backward)
    for first, last in ((1, 5), (6, 9)):        # what comes into the norm is added to what leaves the projection
        axes.plot([1.5, 4.3, 4.3], [-first + 0.5, -first + 0.5, -last], color=BLUE, lw=1.4)
        axes.annotate("", (4.09, -last), (4.32, -last), arrowprops=forward)
    members = [i for i, (_, _, in_block) in enumerate(rooms) if in_block]
    top, bottom = -members[0] + 0.42, -members[-1] - 0.42
    axes.plot([0.8, 0.65, 0.65, 0.8], [top, top, bottom, bottom], color=GREEN, lw=1.6)
    axes.text(0.45, (top + bottom) / 2, f"block, {config.num_hidden_layers} times", rotation=90, va="center",
              ha="center", color=GREEN, fontsize=10.5)
    axes.text(1.5, 0.62, "forward", color=BLUE, ha="center", fontsize=10.5)
    axes.text(3.6, 0.62, "backward", color=ORANGE, ha="center", fontsize=10.5)
    axes.text(4.45, 0.62, "shape of the result", color=GREY, fontsize=9.5)
    axes.set(xlim=(0.2, 6.1), ylim=(-len(rooms) + 0.4, 1.1))
    axes.set_title("Every operation, and its gradient, by hand", loc="left", fontsize=12)
    axes.axis("off")


def attention_of(model, ids):
    """The attention probabilities of every layer and head for one text: (layers, H, T, T)."""
    ids = np.array([ids])
    _, (_, _, _, layer_caches, _) = model.forward(ids, slice(0, ids.shape[1]), Context())
    return np.stack([attention_cache.probabilities[0] for _, (_, _, attention_cache, _), *_ in layer_caches])


def draw_attention(figure, axes, model, tokenizer):
    """The head that looks most consistently at something other than the token itself or the one before."""
    ids = tokenizer.encode(LINE)
    maps = attention_of(model, ids)                                             # (layers, H, T, T)
    distance = np.arange(len(ids))[:, None] - np.arange(len(ids))
    far = (maps * (distance > 1)).max(axis=-1).mean(axis=-1)                    # (layers, H)
    layer, head = np.unravel_index(int(far.argmax()), far.shape)
    image = axes.imshow(maps[layer, head], cmap="cividis", vmin=0, vmax=1)
    axes.set_xticks(range(len(ids)), list(LINE), fontsize=8, family="monospace")
    axes.set_yticks(range(len(ids)), list(LINE), fontsize=8, family="monospace")
    axes.set(xlabel="sees the character", ylabel="query: this character")
    axes.set_title(f"What head {head} of layer {layer} sees (both from 0)", loc="left", fontsize=12)
    figure.colorbar(image, ax=axes, label="probability", fraction=0.046)


def draw_loss(axes, losses, validation):
    """The loss of the run: training, and validation."""
    axes.plot(range(1, len(losses) + 1), losses, color=BLUE, alpha=0.35, lw=0.8, label="training, each step")
    axes.plot(*zip(*validation, strict=True), color=ORANGE, marker="o", ls="--", label="validation")
    axes.annotate(f"{validation[-1][1]:.2f}", validation[-1], textcoords="offset points", xytext=(-6, 8), color=ORANGE)
    axes.set(xlabel="steps", ylabel="loss (nats per character)")
    axes.set_title("It learns Shakespeare", loc="left", fontsize=12)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)


def main():
    """Draw the run named on the command line."""
    run = Path(sys.argv[1])
    model, tokenizer = tl.load(run), tl.load_tokenizer(run)
    settings = json.loads((run / "run.json").read_text(encoding="utf-8"))["settings"]
    figure = Figure(figsize=(13, 7.2), dpi=110, facecolor="white", layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[0.9, 1])
    draw_block(left.subplots(), model, settings["batch_size"], settings["context"])
    top, bottom = right.subplots(2, 1, height_ratios=[1.35, 1])
    draw_attention(right, top, model, tokenizer)
    draw_loss(bottom, *read_metrics(run))
    figure.savefig(Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
