"""Ctrl-C while a run trains: the step that is running is finished and saved, and the run can go on."""

import signal
import threading

import pytest
import small_runs
from small_runs import TEXT, contents, resume, start

from tinyllama.data import WindowBatches
from tinyllama.formats import load
from tinyllama.training import checkpoints
from tinyllama.training import run as run_module
from tinyllama.training.checkpoints import latest_checkpoint
from tinyllama.training.interruption import ctrl_c_asks

SHORT = {"steps": 6, "evaluate_every": 2}


@pytest.fixture(autouse=True)
def only_the_training(monkeypatch):
    small_runs.only_the_training(monkeypatch.setattr)


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    return {"data": str(tmp_path / "text.txt"), "out": tmp_path / "out", **SHORT}


def press_ctrl_c():
    signal.raise_signal(signal.SIGINT)


@pytest.fixture
def ctrl_c_in_step(monkeypatch):
    """ctrl_c_in_step(k, times): press Ctrl-C while step k is under way."""
    original = WindowBatches.batch

    def in_step(wanted, times=1):
        def batch(self, step):
            if step + 1 == wanted:
                for _ in range(times):
                    press_ctrl_c()
            return original(self, step)
        monkeypatch.setattr(WindowBatches, "batch", batch)

    yield in_step
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 6])
def test_a_run_that_ctrl_c_stopped_goes_on_to_the_same_bytes(step, settings, ctrl_c_in_step, tmp_path):
    start(settings | {"out": tmp_path / "undisturbed"})
    ctrl_c_in_step(step)
    out = settings["out"]
    said = start(settings)
    told = f"Interrupted after {step} of 6 steps, all of them saved. To go on: tinyllama train --out {out} --resume"
    assert (told in said) == (step < 6)
    assert latest_checkpoint(out).step == step
    assert load(out).config.vocab_size == load(latest_checkpoint(out).directory).config.vocab_size
    resume(out)
    assert contents(out) == contents(tmp_path / "undisturbed")


def test_a_run_may_be_stopped_again_and_again(settings, ctrl_c_in_step, tmp_path):
    start(settings | {"out": tmp_path / "undisturbed"})
    ctrl_c_in_step(1)
    start(settings)
    for step in range(2, 6):
        ctrl_c_in_step(step)
        assert f"Interrupted after {step} of 6 steps" in resume(settings["out"])
    resume(settings["out"])
    assert contents(settings["out"]) == contents(tmp_path / "undisturbed")


def test_a_second_ctrl_c_ends_at_once_and_damages_nothing(settings, ctrl_c_in_step, tmp_path):
    start(settings | {"out": tmp_path / "undisturbed"})
    ctrl_c_in_step(4, times=2)
    with pytest.raises(KeyboardInterrupt):
        start(settings)
    assert latest_checkpoint(settings["out"]).step == 2
    ctrl_c_in_step(0)
    resume(settings["out"])
    assert contents(settings["out"]) == contents(tmp_path / "undisturbed")


def test_two_of_them_during_a_save_leave_the_last_checkpoint(settings, monkeypatch, ctrl_c_in_step, tmp_path):
    start(settings | {"out": tmp_path / "undisturbed"})
    original = checkpoints.save_file

    def save_file(arrays, file):
        if "step-000004" in str(file):
            press_ctrl_c()
            press_ctrl_c()
        original(arrays, file)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints, "save_file", save_file)
        start(settings)
    assert latest_checkpoint(settings["out"]).step == 2
    resume(settings["out"])
    assert contents(settings["out"]) == contents(tmp_path / "undisturbed")


def test_ctrl_c_before_the_first_step_leaves_nothing_behind(settings, monkeypatch):
    monkeypatch.setattr(run_module, "forecast", lambda *_, **__: press_ctrl_c())
    with pytest.raises(KeyboardInterrupt):
        start(settings)
    assert not settings["out"].exists()


def test_ctrl_c_in_a_run_that_is_complete_already_changes_nothing(settings, monkeypatch):
    start(settings)
    files, original = contents(settings["out"]), run_module.MetricsLog.__enter__
    monkeypatch.setattr(run_module.MetricsLog, "__enter__", lambda self: (press_ctrl_c(), original(self))[1])
    assert "Interrupted" not in resume(settings["out"])
    assert contents(settings["out"]) == files


def test_ctrl_c_never_saves_weights_that_are_no_numbers(settings, ctrl_c_in_step, monkeypatch):
    """The loss of a step is that before its update, which may spoil the weights."""
    original = run_module.train

    def train(model, *args):
        for report in original(model, *args):
            if report.step == 2:
                model.parameters.trainable[0] = float("nan")
            yield report

    monkeypatch.setattr(run_module, "train", train)
    ctrl_c_in_step(3)
    with pytest.raises(ValueError, match="largest_weight: expected a number, got nan in step 3; try a "):
        start(settings)
    assert latest_checkpoint(settings["out"]).step == 2


def test_another_thread_hears_no_ctrl_c_and_trains_all_the_same():
    def enter():
        before = signal.getsignal(signal.SIGINT)
        with ctrl_c_asks() as request:
            heard.append((request.made, signal.getsignal(signal.SIGINT) is before))

    heard = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert heard == [(False, True)]
