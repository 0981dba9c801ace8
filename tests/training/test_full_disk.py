"""A disk that is full, or that cannot be written to at all: a clear error, and nothing lost."""

import builtins
import contextlib
import errno
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import small_runs
from safetensors import SafetensorError
from small_runs import TEXT, contents, resume, start

from tinyllama.formats import huggingface, load
from tinyllama.training import checkpoints
from tinyllama.training import run as run_module
from tinyllama.training.checkpoints import latest_checkpoint

SHORT = {"steps": 6, "evaluate_every": 2}


@pytest.fixture(autouse=True)
def only_the_training(monkeypatch):
    small_runs.only_the_training(monkeypatch.setattr)


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    return {"data": str(tmp_path / "text.txt"), "out": tmp_path / "out", **SHORT}


@pytest.fixture
def expected(settings, tmp_path):
    """What a run leaves where there is room."""
    start(settings | {"out": tmp_path / "undisturbed"})
    return contents(tmp_path / "undisturbed")


@pytest.fixture
def disk(tmp_path):
    """A disk of 256 KiB, which is mounted for the test."""
    place = tmp_path / "disk"
    place.mkdir()
    made = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True).returncode == 0
    if not made:
        pytest.skip("No file system can be mounted here.")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk, free):
    """Leave only so many bytes free on the disk."""
    with open(disk / "filler", "wb") as stream, contextlib.suppress(OSError):
        stream.write(bytes(shutil.disk_usage(disk).free - free))


def reads_well(error, out, reason, step):
    """The message names the directory, says why, what is intact, and what to type."""
    text = str(error.value)
    assert text.startswith(f"{out}: the run could not be written: ")
    assert reason in text
    assert text.endswith(f"; the checkpoint of step {step} is intact. Once that is mended, go on with: "
                         f"tinyllama train --out {out} --resume")
    assert "[Errno" not in text
    assert "Traceback" not in text


# ---- a disk that is really full

@pytest.mark.parametrize("free", [0, 4096, 8192, 12288, 16384, 20480, 24576])
@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_full_disk_ends_the_run_and_loses_nothing(free, step, disk, settings, expected, monkeypatch):
    """It fills up in a step, so that the next save fails sooner or later: in the metrics, the model or the moments."""
    out, original = disk / "out", run_module.train

    def train(*args):
        for report in original(*args):
            if report.step + 1 == step:
                fill(disk, free)
            yield report

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "train", train)
        with pytest.raises(OSError, match="could not be written") as error:
            start(settings | {"out": out})
    last = latest_checkpoint(out)
    reads_well(error, out, "No space left on device", last.step)
    assert last.step in (step - 1, step - 2, step)      # the best model may be what did not fit
    load(last.directory)
    (disk / "filler").unlink()
    resume(out)
    assert contents(out) == expected


@pytest.mark.parametrize("free", [0, 4096, 20480])
def test_a_disk_that_is_full_from_the_start_is_left_as_it_was(free, disk, settings):
    fill(disk, free)
    with pytest.raises(OSError, match=r"out: the run could not be written: .*No space left on device") as error:
        start(settings | {"out": disk / "out"})
    assert "[Errno" not in str(error.value)
    assert [path.name for path in disk.iterdir()] == ["filler"]


def test_a_disk_that_is_still_full_says_so_again(disk, settings, expected, monkeypatch):
    out, original = disk / "out", run_module.train
    monkeypatch.setattr(run_module, "train", lambda *args: (fill(disk, 0), original(*args))[1])
    with pytest.raises(OSError, match="could not be written"):
        start(settings | {"out": out})
    for _ in range(2):
        with pytest.raises(OSError, match="could not be written") as error:
            resume(out)
        reads_well(error, out, "No space left on device", 0)
    monkeypatch.setattr(run_module, "train", original)
    (disk / "filler").unlink()
    resume(out)
    assert contents(out) == expected


def test_a_disk_that_was_made_read_only_is_named(disk, settings, expected, monkeypatch):
    out, original = disk / "out", run_module.train

    def train(*args):
        for report in original(*args):
            if report.step == 2:
                raise KeyboardInterrupt
            yield report

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run_module, "train", train)
        start(settings | {"out": out})
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        with pytest.raises(OSError, match="could not be written") as error:
            resume(out)
        reads_well(error, out, "Read-only file system", 2)
        with pytest.raises(OSError, match="new: the run could not be written: Read-only file system") as error:
            start(settings | {"out": disk / "new"})
        assert "[Errno" not in str(error.value)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    resume(out)
    assert contents(out) == expected


# ---- the same, told by the operating system's functions

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
FORBIDDEN = PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def failing(function, error, *, is_meant):
    """`function`, which fails where is_meant(the path) says so."""
    def fails(path, *args, **options):
        if is_meant(str(path).replace(os.sep, "/")):
            raise error
        return function(path, *args, **options)
    return fails


@pytest.mark.parametrize(("where", "step"), [
    ("step-000004.new", 2), ("step-000004.new/config.json.new", 2), ("step-000004.new/training.json", 2),
    ("out/model.safetensors", 4), ("out/config.json.new", 4), ("out/checkpoints", 2)])
@pytest.mark.parametrize("error", [FULL, FORBIDDEN], ids=["full", "forbidden"])
def test_whatever_fails_in_a_save_the_last_checkpoint_is_intact(where, step, error, settings, expected, monkeypatch):
    """Nothing fails before step 4."""
    out, now = settings["out"], []
    monkeypatch.setattr(run_module._Run, "_evaluate", _noting_step_4(run_module._Run._evaluate, now))

    def is_meant(path):
        return bool(now) and path.endswith(where)

    with monkeypatch.context() as patch:
        for module, name in ((os, "mkdir"), (os, "open"), (os, "replace"), (os, "rename"), (builtins, "open")):
            patch.setattr(module, name, failing(getattr(module, name), error, is_meant=is_meant))
        patch.setattr(Path, "write_text", failing(Path.write_text, error, is_meant=is_meant))
        for module in (huggingface, checkpoints):
            patch.setattr(module, "save_file", _failing_with(error, module.save_file, is_meant))
        with pytest.raises(OSError, match="could not be written") as raised:
            start(settings)
    reads_well(raised, out, error.strerror, latest_checkpoint(out).step)
    assert latest_checkpoint(out).step == step or where == "out/checkpoints"
    resume(out)
    assert contents(out) == expected


@pytest.mark.parametrize("module", [huggingface, checkpoints], ids=["the model", "the moments"])
def test_safetensors_own_errors_are_readable_too(module, settings, expected, monkeypatch):
    original, calls = module.save_file, []

    def save_file(tensors, file, **options):
        calls.append(file)
        if len(calls) == 3:
            Path(file).write_bytes(b"half")
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        original(tensors, file, **options)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="could not be written") as error:
        patch.setattr(module, "save_file", save_file)
        start(settings)
    reads_well(error, settings["out"], "No space left on device", latest_checkpoint(settings["out"]).step)
    resume(settings["out"])
    assert contents(settings["out"]) == expected


@pytest.mark.parametrize("error", [FULL, FORBIDDEN], ids=["full", "forbidden"])
def test_metrics_that_cannot_be_written_are_named(error, settings, monkeypatch):
    fails = failing(Path.write_text, error, is_meant=lambda path: path.endswith("metrics.jsonl.new"))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="could not be written") as raised:
        patch.setattr(Path, "write_text", fails)
        start(settings)
    reads_well(raised, settings["out"], error.strerror, 0)
    resume(settings["out"])


def test_a_directory_that_cannot_be_made_is_named(settings, monkeypatch):
    monkeypatch.setattr(os, "mkdir", failing(os.mkdir, FORBIDDEN, is_meant=lambda path: path.endswith("out")))
    with pytest.raises(OSError, match=re.escape(f"{settings['out']}: the run could not be written: Permission denied")):
        start(settings)


def _noting_step_4(evaluate, now):
    def noting(self, metrics):
        if self.step == 4:
            now.append(True)
        evaluate(self, metrics)
    return noting


def _failing_with(error, save_file, is_meant):
    def saving(tensors, file, **options):
        if is_meant(str(file).replace(os.sep, "/").removesuffix(".new")):
            raise SafetensorError(f"I/O error: {error.strerror}")
        save_file(tensors, file, **options)
    return saving
