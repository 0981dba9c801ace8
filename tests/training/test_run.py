"""A whole run, from a text to a directory, with a model so small that it takes a moment."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tinyllama.data import Batches, read_text, split, validation_windows
from tinyllama.formats import load
from tinyllama.tokenizers import CharacterTokenizer, load_tokenizer
from tinyllama.training import StepReport, evaluate, plots
from tinyllama.training import run as run_module
from tinyllama.training.run import FILES, RunSettings, run_training

TEXT = "the cat sat on the mat.\n" * 20
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

    def save(model, path):
        a_run.trained = model
        original(model, path)

    original = run_module.save
    monkeypatch.setattr(run_module, "save", save)
    return a_run


@pytest.fixture
def run(whole_run, monkeypatch):
    """Without the picture and with a short sample, which would take most of the time."""
    monkeypatch.setattr(run_module, "SAMPLE_TOKENS", 40)
    monkeypatch.setattr(plots, "save_loss_plot", lambda path, losses, validation, title: path.write_bytes(b"a picture"))
    return whole_run


def metrics_in(out):
    """metrics.json, read as strictly as other programs do."""
    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"), parse_constant=refuse)


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


# ---- what a run leaves behind

def test_a_run_saves_the_model_the_tokenizer_the_figures_and_a_plot(whole_run):
    out = whole_run(seed=5)
    assert out == whole_run.directory / "out"
    assert sorted(contents(out)) == sorted(FILES)
    metrics = metrics_in(out)
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert len(metrics["losses"]) == 6
    assert metrics["losses"][0] == pytest.approx(math.log(len(set(TEXT))), abs=0.3)
    assert [step for step, _ in metrics["validation"]] == [6]
    assert metrics["settings"] == {
        "data": str(whole_run.directory / "text.txt"), "out": str(out), "seed": 5, "learning_rate": 1e-3,
        "dropout": 0.0, "backend": "numpy", "intermediate_size": None, "key_value_heads": None, **TINY}


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
    _, unseen = split(load_tokenizer(out).encode_to_array(TEXT))
    windows = validation_windows(unseen, batch_size=3, context=8, batches=run_module.VALIDATION_BATCHES)
    assert metrics_in(out)["validation"][-1][1] == evaluate(load(out, workers=1), windows)


def test_the_same_seed_gives_the_same_run(run):
    one, two, other = (run(out=run.directory / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    assert metrics_in(one)["losses"] == metrics_in(two)["losses"] != metrics_in(other)["losses"]


@pytest.mark.parametrize(("steps", "expected"), [
    (1, [1]), (49, [49]), (110, [55, 110]), (405, [51, 102, 152, 203, 254, 304, 355, 405]),
])
def test_it_looks_at_the_validation_loss_now_and_then_and_at_the_end(steps, expected, run, monkeypatch):
    reports = (StepReport(step, 1.0, 1.0, 1e-3) for step in range(steps))
    monkeypatch.setattr(run_module, "train", lambda model, batch, settings: reports)
    assert [step for step, _ in metrics_in(run(steps=steps))["validation"]] == expected


@pytest.fixture
def handed_to_train(monkeypatch):
    """A list of what a run hands to `train`, (batch, settings), which then trains nothing."""
    received = []

    def no_training(model, batch, settings):
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
    train_ids, _ = split(load_tokenizer(out).encode_to_array(TEXT))
    expected = Batches(train_ids, batch_size=3, context=8, seed=4)
    for step in (0, 5):
        np.testing.assert_array_equal(batch(step), expected.batch(step))
    assert settings.seed == 4


def test_the_mlp_is_8_thirds_as_wide_unless_told_otherwise():
    assert RunSettings(hidden_size=128).model_config(65).intermediate_size == 344
    assert RunSettings(hidden_size=128, intermediate_size=100).model_config(65).intermediate_size == 100
    with pytest.raises(ValueError, match="intermediate_size: expected a whole number of at least 1, got 0"):
        RunSettings(intermediate_size=0).model_config(65)


# ---- what a run shows

def test_it_says_what_it_does_and_what_came_of_it(run):
    out = run(steps=110)
    lines = run.said.splitlines()
    assert lines[0].endswith("text.txt: 480 characters, 12 distinct.")
    # embedding 12 · 8, q, k, v and o 8 · 8 each, the MLP three times 8 · 24, three norms of 8
    assert lines[1] == f"A LLaMA of {96 + 256 + 576 + 24} parameters: layers 1, features 8."
    assert lines[2] == "Steps: 110, each on 3 rows of 8 characters."
    progress = [line for line in lines if line.startswith(("55/110  loss ", "110/110  loss "))]
    assert len(progress) == 2       # in a file, a line now and then stands for the moving bar
    for line, (_, loss) in zip(progress, metrics_in(out)["validation"], strict=True):
        assert f"validation {loss:.3f}" in line
        assert line.endswith(" tokens/s")
    assert "a sample" in run.said
    assert lines[-1] == f"Saved {out} and {out / 'loss.png'}. To read more of it: tinyllama generate {out}"


def test_what_rich_takes_for_marks_is_shown_as_it_is(run):
    run("[/bold] [red]x " * 40, data="my [bold]text.txt", steps=1)
    assert "my [bold]text.txt: 600 characters" in run.said


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
        assert metrics_in(out)["losses"] == [0.0] * 6
        assert list(model.generate([0], 4)) == [0] * 4


# ---- where a run goes

def test_runs_are_numbered_and_named_after_their_text(run, monkeypatch):
    monkeypatch.chdir(run.directory)
    Path("runs", "my-text-v2-2").mkdir(parents=True)
    expected = [Path("runs", f"my-text-v2-{number}") for number in (1, 3, 4)]
    assert [run(data="my text.v2.txt", out=None, steps=1) for _ in expected] == expected
    assert all(sorted(contents(out)) == sorted(FILES) for out in expected)
    assert contents(Path("runs", "my-text-v2-2")) == {}


def test_a_text_whose_name_has_no_letters_still_gets_a_run(run, monkeypatch):
    monkeypatch.chdir(run.directory)
    assert run(data="+++.txt", out=None, steps=1) == Path("runs", "run-1")


def test_a_directory_that_holds_something_else_may_be_used(run):
    out = run.directory / "out"
    out.mkdir()
    (out / "notes.md").write_text("mine", encoding="utf-8")
    run(steps=1)
    assert sorted(contents(out)) == sorted([*FILES, "notes.md"])
    assert (out / "notes.md").read_text(encoding="utf-8") == "mine"


def test_a_directory_that_holds_a_model_is_refused_and_left_alone(run):
    out = run(steps=1)
    before = contents(out)
    with pytest.raises(ValueError, match=r"out: expected a directory without a model, but .*out holds config\.json"):
        run(steps=2)
    assert contents(out) == before


@pytest.mark.parametrize("name", FILES)
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
    ("abcdefgh" * 10, {}, "expected at least 90 characters, so that the tenth .* a window of 8 and one more, got 80"),
    ("abc", {}, "expected at least 90 characters, .* got 3"),
    (TEXT, {"context": 64}, "expected at least 650 characters, .* a window of 64 and one more, got 480"),
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
    assert len(json.loads((out / "metrics.json").read_text(encoding="utf-8"))["losses"]) == 1


@pytest.mark.parametrize("steps_done", [0, 3])
def test_ctrl_c_saves_what_there_is(steps_done, run, monkeypatch):
    def batch(self, step):
        if step == steps_done:
            raise KeyboardInterrupt
        return original(self, step)

    original = Batches.batch
    monkeypatch.setattr(Batches, "batch", batch)
    out = run()
    assert f"Interrupted after {steps_done} of 6 steps; saved as it is." in run.said
    assert f"Saved {out}" in run.said
    assert sorted(contents(out)) == sorted(FILES)
    assert len(metrics_in(out)["losses"]) == steps_done
    assert metrics_in(out)["validation"] == []
    assert list(load(out).generate([1], 5, seed=1)) == list(run.trained.generate([1], 5, seed=1))
    assert isinstance(load_tokenizer(out), CharacterTokenizer)


def test_ctrl_c_during_the_validation_saves_too(run, monkeypatch):
    def interrupted(model, batches):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "evaluate", interrupted)
    out = run()
    assert "Interrupted after 6 of 6 steps" in run.said
    assert sorted(contents(out)) == sorted(FILES)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_run_with_advice(loss, run, monkeypatch):
    losses = [2.5, 2.4, loss, 2.3]
    reports = (StepReport(step, loss, 1.0, 1e-3) for step, loss in enumerate(losses))
    monkeypatch.setattr(run_module, "train", lambda model, batch, settings: reports)
    with pytest.raises(ValueError, match=f"loss: expected a number, got {loss} in step 3; .* learning rate below 0.5"):
        run(learning_rate=0.5)


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
        with pytest.raises(ValueError, match=r"out: expected a directory without a model, but .* holds metrics.json"):
            run()
        yield from train(*args)

    monkeypatch.setattr(run_module, "train", trains_while_another_run_begins)
    assert (run() / "model.safetensors").exists()


def test_a_run_that_fails_leaves_no_directory_behind(run, tmp_path):
    with pytest.raises(ValueError, match="loss: expected a number"), np.errstate(all="ignore"):
        run(learning_rate=1e30)
    assert not (tmp_path / "out").exists()


def test_a_dollar_in_the_name_of_a_text_is_no_formula(whole_run):
    assert (whole_run(data="a$b_{$.txt") / "loss.png").exists()
