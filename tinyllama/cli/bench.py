"""`tinyllama bench`: where the time of a step goes, against this machine's limits and PyTorch."""

import contextlib
import json
from pathlib import Path
from typing import Annotated

import typer

from tinyllama.cli.paths import path

WIDTH = 100         # of the widest table: a narrower terminal breaks its lines, but nothing is left out


def bench(
    size: Annotated[list[str] | None, typer.Option(
        help='"nano", "char", "M", "L", "15M" or "110M"; may be given more than once.  [default: M]')] = None,
    compare: Annotated[bool, typer.Option(
        "--compare", help="Instead: the same step in PyTorch, eager and compiled, in turns with ours.")] = False,
    growth: Annotated[bool, typer.Option(
        "--growth", help="Instead: how a step grows with the sequence length, the batch, the width and the cores."
    )] = False,
    backend: Annotated[str | None, typer.Option(
        help="Which backend computes; the one that a model takes by itself if not given.")] = None,
    workers: Annotated[int | None, typer.Option(help="Threads that share a step; found out if not given.")] = None,
    out: Annotated[Path | None, typer.Option(
        help="A directory for bench.json and the figures, made if it is not there.", parser=path)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
):
    """Measure this machine's limits, and where the time of a training step and of a token goes."""
    from rich.console import Console

    from tinyllama.backends import default_backend, load_backend
    from tinyllama.backends.compilation import compile_with_bar
    from tinyllama.bench.machine import describe_machine
    from tinyllama.bench.sizes import find_size
    sizes = [find_size(name) for name in size or ["M"]]
    if workers is not None and workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    if growth and size:
        raise ValueError("growth: expected no --size beside it, since it has sizes of its own")
    computing = load_backend(backend or default_backend())
    if out is not None:
        _require_writable(out)
    console = Console(quiet=as_json)
    console.width = max(console.width, WIDTH)
    chosen = {"backend": backend, "workers": workers}
    facts, figures = {"machine": describe_machine()}, {}
    compile_with_bar(computing, "float32", Console(stderr=True))
    with _status_line() as say:
        if compare:
            _compare(facts, console, sizes, chosen, say)
        if growth:
            _grow(facts, figures, console, chosen, say)
        if not compare and not growth:
            _profile(facts, figures, console, sizes, chosen, say)
    if as_json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    if out is not None:
        _save(facts, figures, out)
        console.print(f"\nSaved {', '.join(str(out / name) for name in ('bench.json', *figures))}.", markup=False,
                      highlight=False, soft_wrap=True)


def _profile(facts, figures, console, sizes, chosen, say):
    """The limits, then training and decoding at each size."""
    from tinyllama.bench import as_json, report
    from tinyllama.bench.decoding import profile_decoding
    from tinyllama.bench.limits import measure_limits
    from tinyllama.bench.plots import save_roofline
    from tinyllama.bench.training import profile_training
    limits = measure_limits(say)
    facts |= {"limits": as_json.limits_as_json(limits), "training": [], "decoding": []}
    say("")
    report.print_limits(console, facts["machine"], facts["limits"])
    for size in sizes:
        training = as_json.training_as_json(profile_training(size, **chosen, say=say), limits)
        decoding = [as_json.decoding_as_json(profile_decoding(size, weights=weights, **chosen, say=say))
                    for weights in ("float32", "int8")]
        say("")
        report.print_training(console, training)
        report.print_decoding(console, decoding)
        facts["training"].append(training)
        facts["decoding"] += decoding
        name = "roofline.png" if len(sizes) == 1 else f"roofline-{size.name}.png"
        figures[name] = lambda file, training=training: save_roofline(file, training, facts["limits"])


def _compare(facts, console, sizes, chosen, say):
    from tinyllama.bench import as_json, report
    from tinyllama.bench.comparison import compare
    facts["comparison"] = []
    for size in sizes:
        comparison = as_json.comparison_as_json(compare(size, **chosen, say=say))
        facts["comparison"].append(comparison)
        say("")
        report.print_comparison(console, comparison)


def _grow(facts, figures, console, chosen, say):
    from tinyllama.bench import as_json, report
    from tinyllama.bench.growth import measure_growth
    from tinyllama.bench.plots import save_growth
    facts["growth"] = as_json.growth_as_json(measure_growth(**chosen, say=say))
    figures["growth.png"] = lambda file: save_growth(file, facts["growth"])
    say("")
    report.print_growth(console, facts["growth"])


@contextlib.contextmanager
def _status_line():
    """say(text) shows what is going on, on a terminal, below what was printed.

    It is drawn when something is said and not by a clock, which would take time from what is measured.
    """
    from rich.console import Console
    from rich.live import Live
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: None
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda text: live.update(text, refresh=True)


def _require_writable(out):
    """Find out before the measuring whether there will be a place for the results."""
    import tempfile
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out):
        pass


def _save(facts, figures, out):
    (out / "bench.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, draw in figures.items():
        draw(out / name)
