"""A whole run, from a text to a directory, with a model so small that it takes a moment."""

import dataclasses
import io
import json
import math
import signal
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tinyllama.backends import default_backend
from tinyllama.data import Tokens, WindowBatches, read_text, validation_windows
from tinyllama.formats import load
from tinyllama.tokenizers import CharacterTokenizer, load_tokenizer
from tinyllama.training import Evaluation, StepReport, evaluate, plots, preparation
from tinyllama.training import run as run_module
from tinyllama.training.forecast import Forecast
from tinyllama.training.metrics import read_metrics
from tinyllama.training.run import resume_training, run_training
from tinyllama.training.run_directory import NAMES
from tinyllama.training.settings import RunSettings

TEXT = "the cat sat on the mat.\n" * 20
WRITTEN = sorted({*NAMES} - {"tensorboard"})       # tensorboard is there only where its package is
TINY = {"steps": 6, "batch_size": 3, "context": 8, "layers": 1, "hidden_size": 8, "heads": 2, "workers": 1}


class Run:
    """Run trainings in a directory of the test; `said` is what the console showed."""

    def __init__(self, directory):
        self.directory, self.said = directory, ""
        self.trained = None     # the model, as it was when it was saved

    def __call__(self, text=TEXT, *, data="text.txt", console=None, **changes):
        path = self.directory / data
        path.write_text(text, encoding="utf-8")
        screen = io.StringIO()
        settings = {**TINY, "data": str(path), "out": self.directory / "out", **changes}
        try:
            return run_training(RunSettings(**settings), Console(file=screen, width=100, **console or {}))
        finally:
            self.said = screen.getvalue()


@pytest.fixture
def whole_run(tmp_path, monkeypatch):
    a_run = Run(tmp_path)

    def save_model(model, *where):
        a_run.trained = model
        original(model, *where)

    original = run_module.save_model
    monkeypatch.setattr(run_module, "save_model", save_model)
    return a_run


@pytest.fixture
def run(whole_run, monkeypatch):
    """Without forecast and pictures and with a short sample: they would take most of the time."""
    monkeypatch.setattr(run_module, "SAMPLE_TOKENS", 40)
    monkeypatch.setattr(run_module, "forecast", lambda *args, **settings: Forecast(61.0, 3 * 2**20))
    monkeypatch.setattr(plots, "save_loss_plot", lambda path, *args, **settings: path.write_bytes(b"a picture"))
    return whole_run


def settings_in(out):
    return json.loads((out / "run.json").read_text(encoding="utf-8"))["settings"]


def validation_in(out):
    return read_metrics(out)[1]


def losses_in(out):
    return read_metrics(out)[0]


def names(directory):
    return sorted(path.name for path in directory.iterdir() if path.name != "tensorboard")


def contents(directory):
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def parts_of(text, tokenizer):
    """(tokens to train on, tokens to validate with)."""
    boundary = int(0.9 * len(text))
    parts = (tokenizer.encode_to_array(part) for part in (text[:boundary], text[boundary:]))
    return tuple(Tokens(ids, np.array([0, len(ids)])) for ids in parts)


# ---- what a run leaves behind

def test_a_run_saves_the_model_the_tokenizer_the_figures_and_plots(whole_run):
    out = whole_run(seed=5)
    assert out == whole_run.directory / "out"
    assert names(out) == WRITTEN
    for name in ("loss.png", "loss-dark.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert len(losses_in(out)) == 6
    assert losses_in(out)[0] == pytest.approx(math.log(len(set(TEXT))), abs=0.3)
    assert [step for step, _ in validation_in(out)] == [6]
    expected = dataclasses.asdict(RunSettings(**TINY, seed=5)) | {
        "data": str(whole_run.directory / "text.txt"), "out": str(out), "backend": default_backend()}
    assert settings_in(out) == expected
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-000006"]


def test_the_figures_of_a_step_are_its_loss_norm_and_learning_rate(run):
    out = run()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 6]
    for line in lines[:-1]:
        assert set(line) == {"step", "loss", "gradient_norm", "learning_rate"}
        assert line["gradient_norm"] > 0
    assert set(lines[-1]) == {"step", "validation_loss"}


def test_the_saved_model_writes_what_the_trained_one_does(run):
    out = run(key_value_heads=1, dropout=0.1)
    loaded = load(out)
    assert loaded.config == run.trained.config
    for temperature in (0, 1.0):
        expected = list(run.trained.generate([1, 2], 6, temperature=temperature, seed=3))
        assert list(loaded.generate([1, 2], 6, temperature=temperature, seed=3)) == expected
    assert load_tokenizer(out).characters == "".join(sorted(set(TEXT)))


def test_the_validation_loss_is_that_of_the_saved_model_on_the_unseen_tenth(run):
    out = run()
    _, unseen = parts_of(TEXT, load_tokenizer(out))
    windows = validation_windows(unseen, batch_size=3, context=8, batches=preparation.VALIDATION_BATCHES)
    assert validation_in(out)[-1][1] == evaluate(load(out, workers=1), windows).loss


def test_the_model_at_the_top_is_the_best_and_the_checkpoint_the_last(run, monkeypatch):
    losses, weights = iter([3.0, 2.0, 2.5, 2.1]), []

    def evaluated(model, batches):
        weights.append(model.parameters.trainable.copy())
        return Evaluation(next(losses), 99)

    monkeypatch.setattr(run_module, "evaluate", evaluated)
    out = run(steps=12, evaluate_every=3)
    assert validation_in(out) == [(3, 3.0), (6, 2.0), (9, 2.5), (12, 2.1)]
    np.testing.assert_array_equal(load(out).parameters.trainable, weights[1])
    np.testing.assert_array_equal(load(out / "checkpoints" / "step-000012").parameters.trainable, weights[3])
    assert len({array.tobytes() for array in weights}) == 4


def test_the_same_seed_gives_the_same_run(run):
    one, two, other = (run(out=run.directory / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    assert losses_in(one) == losses_in(two) != losses_in(other)


@pytest.mark.parametrize(("steps", "expected"), [
    (1, [1]), (49, [49]), (110, [55, 110]), (405, [51, 102, 152, 203, 254, 304, 355, 405]),
])
def test_it_looks_at_the_validation_loss_now_and_then_and_at_the_end(steps, expected, run, monkeypatch):
    reports = (StepReport(step, 1.0, 1.0, 1e-3) for step in range(steps))
    monkeypatch.setattr(run_module, "train", lambda *args: reports)
    assert [step for step, _ in validation_in(run(steps=steps))] == expected


@pytest.mark.parametrize(("every", "expected"), [(1, [1, 2, 3, 4, 5, 6]), (4, [4, 6]), (6, [6]), (100, [6])])
def test_it_looks_at_it_as_often_as_it_is_told(every, expected, run):
    assert [step for step, _ in validation_in(run(evaluate_every=every))] == expected


@pytest.fixture
def handed_to_train(monkeypatch):
    """A list of what a run hands to `train`, (batch, settings), which then trains nothing."""
    received = []

    def no_training(model, batch, settings, optimizer, first_step):
        received.append((batch, settings))
        return iter(())

    monkeypatch.setattr(run_module, "train", no_training)
    return received


@pytest.mark.parametrize(("steps", "warmup_steps"), [(5, 0), (20, 2), (1000, 100), (2000, 100)])
def test_a_short_run_has_a_short_warm_up(steps, warmup_steps, run, handed_to_train):
    run(steps=steps, learning_rate=0.3)
    settings = handed_to_train[0][1]
    assert (settings.steps, settings.warmup_steps, settings.learning_rate) == (steps, warmup_steps, 0.3)


def test_the_seed_draws_the_batches_and_the_dropout_too(run, handed_to_train):
    out = run(seed=4)
    batch, settings = handed_to_train[0]
    train, _ = parts_of(TEXT, load_tokenizer(out))
    expected = WindowBatches(train, batch_size=3, context=8, seed=4)
    for step in (0, 5):
        for ours, theirs in zip(batch(step)[:2], expected.batch(step)[:2], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert batch(step).documents is None
    assert isinstance(batch.__self__.tokens.ids, np.memmap)      # a text may be larger than the memory
    assert settings.seed == 4


def test_the_mlp_is_8_thirds_as_wide_unless_told_otherwise():
    tokenizer = CharacterTokenizer("abc")
    assert RunSettings(hidden_size=128).model_config(tokenizer).intermediate_size == 344
    assert RunSettings(hidden_size=128, intermediate_size=100).model_config(tokenizer).intermediate_size == 100
    with pytest.raises(ValueError, match="intermediate_size: expected a whole number of at least 1, got 0"):
        RunSettings(intermediate_size=0).model_config(tokenizer)


# ---- what a run shows

def test_it_says_what_it_does_and_what_came_of_it(run):
    out = run(steps=110)
    lines = run.said.splitlines()
    assert lines[0].endswith("text.txt: 480 characters, 12 kinds of tokens.")
    # embedding 12 · 8, q, k, v and o 8 · 8 each, the MLP three times 8 · 24, three norms of 8
    assert lines[1] == f"A LLaMA of {96 + 256 + 576 + 24} parameters: layers 1, features 8."
    assert lines[2] == "Steps: 110, each on 3 rows of 8 tokens."
    assert lines[3] == "Expected on this machine: 1 min 1 s, 3 MB."
    progress = [line for line in lines if line.startswith(("55/110  loss ", "110/110  loss "))]
    assert len(progress) == 2       # in a file, a line now and then stands for the moving bar
    for line, (_, loss) in zip(progress, validation_in(out), strict=True):
        assert f"validation {loss:.3f}" in line
        assert line.endswith(" tokens/s")
    assert "a sample" in run.said
    assert lines[-1] == f"Saved {out} and {out / 'loss.png'}. To read more of it: tinyllama generate {out}"


def test_what_rich_takes_for_marks_is_shown_as_it_is(run):
    run("[/bold] [red]x " * 40, data="my [bold]text.txt", steps=1)
    assert "my [bold]text.txt: 600 characters" in run.said
    run(":o" * 80, data="circles.txt", out=run.directory / "other", steps=1)       # :o: is a picture of a circle
    assert set(run.said.split("a sample")[1].splitlines()[1]) == {":", "o"}
    assert ":o:" in run.said


def test_a_terminal_gets_a_bar_and_no_lines(run):
    run(console={"force_terminal": True})
    assert "━" in run.said
    assert not any(line.startswith("6/6") for line in run.said.splitlines())


@pytest.mark.parametrize("text", ["a" * 120, "words without a line break; " * 10], ids=["one character", "one line"])
def test_unusual_texts(text, run):
    out = run(text)
    model, tokenizer = load(out), load_tokenizer(out)
    assert tokenizer.vocab_size == len(set(text))
    sample = run.said.split("a sample")[1].splitlines()[1]
    assert set(sample) <= set(text)
    assert len(sample) > 30         # of 40, and longer than the context
    if len(set(text)) == 1:
        assert losses_in(out) == [0.0] * 6
        assert list(model.generate([0], 4)) == [0] * 4


# ---- where a run goes

def test_runs_are_numbered_and_named_after_their_text(run, monkeypatch):
    monkeypatch.chdir(run.directory)
    Path("runs", "my-text-v2-2").mkdir(parents=True)
    expected = [Path("runs", f"my-text-v2-{number}") for number in (1, 3, 4)]
    assert [run(data="my text.v2.txt", out=None, steps=1) for _ in expected] == expected
    assert all(names(out) == WRITTEN for out in expected)
    assert contents(Path("runs", "my-text-v2-2")) == {}


def test_a_text_whose_name_has_no_letters_still_gets_a_run(run, monkeypatch):
    monkeypatch.chdir(run.directory)
    assert run(data="+++.txt", out=None, steps=1) == Path("runs", "run-1")


def test_a_directory_that_holds_something_else_may_be_used(run):
    out = run.directory / "out"
    out.mkdir()
    (out / "notes.md").write_text("mine", encoding="utf-8")
    run(steps=1)
    assert names(out) == sorted([*WRITTEN, "notes.md"])
    assert (out / "notes.md").read_text(encoding="utf-8") == "mine"


def test_a_directory_that_holds_a_model_is_refused_and_left_alone(run):
    out = run(steps=1)
    before = contents(out)
    with pytest.raises(ValueError, match=r"out: expected a directory without a model, .*out holds run\.json, .*resume"):
        run(steps=2)
    assert contents(out) == before


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_a_run_writes_may_be_there(name, run):
    out = run.directory / "out"
    out.mkdir()
    (out / name).write_bytes(b"precious")
    with pytest.raises(ValueError, match=f"holds {name}; choose another"):
        run()
    assert contents(out) == {name: b"precious"}


def test_a_file_is_no_place_for_a_run(run):
    out = run.directory / "out"
    out.write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="out: expected a directory, got the file"):
        run()
    assert out.read_text(encoding="utf-8") == "mine"


# ---- what stops a run

@pytest.mark.parametrize(("text", "settings", "message"), [
    ("abcdefgh" * 10, {}, "expected at least 90 tokens, so that the tenth .* a window of 8 and one more, got 80"),
    ("abc", {}, "expected documents of at least two tokens each to validate with"),
    ("abcdefgh" * 3, {"context": 30}, "tokens: expected documents that fill 3 rows of 30, a batch, got 1"),
    (TEXT, {"context": 64}, "expected at least 650 tokens, .* a window of 64 and one more, got 480"),
    (TEXT, {"context": 0}, "context: expected an integer of at least 1, got 0"),
    (TEXT, {"batch_size": 0}, "batch_size: expected an integer of at least 1, got 0"),
    (TEXT, {"steps": 0}, "steps: expected a number above 0, got 0"),
    (TEXT, {"steps": -20}, "steps: expected a number above 0, got -20"),
    (TEXT, {"seed": -1}, "seed: expected a number of at least 0, got -1"),
    (TEXT, {"heads": 3}, "num_attention_heads: expected a divisor of hidden_size=8"),
    (TEXT, {"key_value_heads": 3}, "num_key_value_heads: expected a divisor of num_attention_heads=2, got 3"),
    (TEXT, {"dropout": 1.0}, "dropout: expected 0 <= dropout < 1, got 1.0"),
    (TEXT, {"backend": "abacus"}, "backend: expected one of 'numpy'.*, got 'abacus'"),
    (TEXT, {"workers": 0}, "workers: expected at least 1, or None, got 0"),
    ("", {}, "text.txt: expected a UTF-8 text file, got an empty one"),
])
def test_what_cannot_be_trained_is_refused_before_anything_is_made(text, settings, message, run):
    with pytest.raises(ValueError, match=message):
        run(text, **settings)
    assert not (run.directory / "out").exists()
    assert run.said == ""


def test_the_shortest_text_that_is_promised_to_do_does(run):
    out = run("abcdefghi" * 10, steps=1)
    assert len(losses_in(out)) == 1


def interrupt_in_step(step, monkeypatch):
    """Ctrl-C while this step is computing, as the terminal sends it."""
    def batch(self, at):
        if at == step:
            signal.raise_signal(signal.SIGINT)
        return original(self, at)

    original = WindowBatches.batch
    monkeypatch.setattr(WindowBatches, "batch", batch)


@pytest.mark.parametrize("step", [0, 3])
def test_ctrl_c_finishes_the_step_and_saves_what_there_is(step, run, monkeypatch):
    interrupt_in_step(step, monkeypatch)
    out = run()
    assert f"Interrupted after {step + 1} of 6 steps, all of them saved." in run.said
    assert f"To go on: tinyllama train --out {out} --resume" in run.said
    assert names(out) == WRITTEN
    assert len(losses_in(out)) == step + 1
    assert validation_in(out) == []
    assert list(load(out).generate([1], 5, seed=1)) == list(run.trained.generate([1], 5, seed=1))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_after_ctrl_c_it_goes_on_as_if_nothing_had_been(run, monkeypatch):
    undisturbed = run(out=run.directory / "undisturbed")
    with monkeypatch.context() as patch:
        interrupt_in_step(2, patch)
        out = run()
    screen = io.StringIO()
    assert resume_training(out, Console(file=screen, width=100)) == out
    assert "from step 4 on" in screen.getvalue()
    for name in ("model.safetensors", "checkpoints/step-000006/optimizer.safetensors", "metrics.jsonl"):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes()


def test_ctrl_c_in_the_last_step_is_a_run_that_is_complete(run, monkeypatch):
    interrupt_in_step(5, monkeypatch)
    assert validation_in(run())[-1][0] == 6
    assert "Interrupted" not in run.said


@pytest.mark.parametrize("figures", [(math.nan, 1.0), (math.inf, 1.0), (2.3, math.nan), (2.3, math.inf)])
def test_a_loss_or_a_norm_that_is_no_number_ends_the_run_with_advice(figures, run, monkeypatch):
    reports = (StepReport(step, *(figures if step == 2 else (2.5, 1.0)), 1e-3) for step in range(4))
    monkeypatch.setattr(run_module, "train", lambda *args: reports)
    name = "loss" if math.isfinite(figures[1]) else "norm"
    message = f"{name}: expected a number, got (nan|inf) in step 3; .* rate below 0.5.* step 0"
    with pytest.raises(ValueError, match=message):
        run(learning_rate=0.5)


def test_the_last_good_checkpoint_of_a_run_that_fails_is_kept(run, monkeypatch):
    def explodes(model, *args):
        for report in train(model, *args):
            if report.step == 5:
                model.parameters.trainable[...] = np.nan        # what an update by a gradient of NaN does
                report = report._replace(norm=math.nan)
            yield report

    train = run_module.train
    monkeypatch.setattr(run_module, "train", explodes)
    with pytest.raises(ValueError, match=r"norm: .* in step 6; .* The state after step 4 is kept in .*step-000004"):
        run(steps=12, evaluate_every=2)
    for directory in ("out", "out/checkpoints/step-000004"):
        assert np.isfinite(load(run.directory / directory).parameters.trainable).all()
    assert len(losses_in(run.directory / "out")) == 5


def test_a_learning_rate_that_is_far_too_large_is_named(run):
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"in step \d; try a learning rate below 1e\+28"):
        run(learning_rate=1e28)


def test_the_text_is_read_as_the_reader_reads_it(run):
    out = run("\ufeffone\r\ntwo\r\n" * 12)
    text = read_text(run.directory / "text.txt")
    assert "\r" not in text
    assert load_tokenizer(out).characters == "".join(sorted(set(text)))


def test_two_runs_at_once_get_a_directory_each(run, tmp_path, monkeypatch):
    """The second starts while the first is training: the name must be taken from the start, not from the end."""
    monkeypatch.chdir(tmp_path)
    second, train = [], run_module.train

    def trains_while_another_run_begins(*args):
        monkeypatch.setattr(run_module, "train", train)
        second.append(run(out=None))
        yield from train(*args)

    monkeypatch.setattr(run_module, "train", trains_while_another_run_begins)
    first = run(out=None)
    assert [first, *second] == [Path("runs/text-1"), Path("runs/text-2")]
    assert all((out / "model.safetensors").exists() for out in (first, *second))


def test_a_second_run_into_the_same_directory_is_refused_while_the_first_is_training(run, tmp_path, monkeypatch):
    train = run_module.train

    def trains_while_another_run_begins(*args):
        with pytest.raises(ValueError, match=r"out: expected a directory without a model, but .* holds run.json"):
            run()
        yield from train(*args)

    monkeypatch.setattr(run_module, "train", trains_while_another_run_begins)
    assert (run() / "model.safetensors").exists()


def test_a_run_that_fails_before_its_first_checkpoint_leaves_nothing_behind(run, monkeypatch):
    (run.directory / "out").mkdir()
    (run.directory / "out" / "notes.md").write_text("mine", encoding="utf-8")

    def fails(*args, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_module, "write_checkpoint", fails)
    with pytest.raises(OSError, match="out: the run could not be written: No space left on device"):
        run()
    assert names(run.directory / "out") == ["notes.md"]


def test_a_dollar_in_the_name_of_a_text_is_no_formula(whole_run):
    assert (whole_run(data="a$b_{$.txt") / "loss.png").exists()
