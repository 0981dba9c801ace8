"""A training run that is killed, at whatever moment, goes on as if nothing had happened: every file, byte for byte."""

import os
import random
import shutil
from collections import Counter

import pytest
from forked_runs import PHASES, ForkedRuns
from small_runs import TEXT, contents

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="Runs are killed in forks, which need POSIX.")

RUNS = 100
SHORT = {"steps": 2, "evaluate_every": 1, "workers": 1}      # three checkpoints, that of step 0 included


@pytest.fixture(scope="module")
def forked():
    with ForkedRuns() as runs:
        yield runs


@pytest.fixture
def run(forked, tmp_path):
    """run(name, ...) starts or resumes the run of that name."""
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")

    def start(name, settings=None, **how):
        return forked({"data": str(tmp_path / "text.txt"), "out": str(tmp_path / name), **(settings or {})}, **how)

    return start


@pytest.fixture
def expected(run, tmp_path):
    """What an undisturbed run leaves: expected(settings)."""
    def make(settings=None):
        report = run("undisturbed", settings)
        assert report["ended"] == "done"
        return contents(tmp_path / "undisturbed"), report["seconds"]
    return make


def test_100_runs_killed_at_random_moments_end_like_one_that_was_not(run, expected, tmp_path):
    files, seconds = expected()
    draw, kills, killed_again = random.Random(0), Counter(), 0
    for number in range(RUNS):
        name = f"run-{number}"
        times = draw.choice((1, 1, 2))
        made = 0
        while made < times:
            report = run(name, kill_after=draw.uniform(0, seconds))
            if report["ended"] == "killed":
                kills[report["phase"]] += 1
                made += 1
            elif made:
                break
            else:
                shutil.rmtree(tmp_path / name)      # it was done before it could be killed
        killed_again += made > 1
        assert run(name)["ended"] == "done"
        assert contents(tmp_path / name) == files, f"{name}, after {dict(kills)}"
        shutil.rmtree(tmp_path / name)
    print(f"{RUNS} runs, {killed_again} of them killed twice. The kills fell on: {dict(kills)}")
    assert kills.keys() >= set(PHASES) - {"end"}


def count_changes(run, name, settings):
    """How often a process that starts or goes on with this run changes the disk; the run is then complete."""
    report = run(name, settings, crash_at=10**9)
    assert report["ended"] == "done"
    return report["changes"]


def crash_everywhere(run, tmp_path, files, settings, *, before=None):
    """Let a run, or the directory `before`, crash before each change of the disk, and go on."""
    def fresh(name):
        if before is not None:
            shutil.copytree(before, tmp_path / name)

    fresh("counted")
    total = count_changes(run, "counted", settings)
    for k in range(1, total + 1):
        name = f"crash-{k}"
        fresh(name)
        report = run(name, settings, crash_at=k)
        assert report["ended"] == "crashed", (k, report)
        assert run(name, settings)["ended"] == "done"
        assert contents(tmp_path / name) == files, f"crash before change {k} of {total}, in {report['phase']}"
        shutil.rmtree(tmp_path / name)
    return total


def test_a_crash_before_any_change_of_the_disk_loses_nothing(run, expected, tmp_path):
    files, _ = expected(SHORT)
    assert crash_everywhere(run, tmp_path, files, SHORT) > 120


@pytest.mark.parametrize("changes", [40, 75], ids=["in the first save", "in the second"])
def test_a_crash_while_going_on_after_a_crash_loses_nothing(changes, run, expected, tmp_path):
    settings = {**SHORT, "steps": 1}
    files, _ = expected(settings)
    assert run("crashed", settings, crash_at=changes)["ended"] == "crashed"
    assert crash_everywhere(run, tmp_path, files, settings, before=tmp_path / "crashed") > 10


@pytest.mark.parametrize("sabotage", ["forget_the_moments", "begin_the_schedule_anew", "draw_batches_in_turn"])
def test_a_run_that_does_not_go_on_exactly_is_noticed(sabotage, run, expected, tmp_path):
    settings = {"steps": 6, "evaluate_every": 3}
    files, _ = expected(settings)
    assert run("crashed", settings, sabotage="crash_in_step_5")["ended"] == "crashed"
    shutil.copytree(tmp_path / "crashed", tmp_path / "exact")
    run("exact", settings)
    assert contents(tmp_path / "exact") == files
    run("crashed", settings, sabotage=sabotage)
    assert contents(tmp_path / "crashed")["model.safetensors"] != files["model.safetensors"]


@pytest.mark.parametrize("sabotage", ["remove_the_old_checkpoint_first", "name_it_before_it_is_written"])
def test_a_save_that_has_a_weak_moment_is_noticed(sabotage, run, expected, tmp_path):
    files, _ = expected(SHORT)
    total = count_changes(run, "counted", SHORT)
    for k in range(total - 60, total + 1, 4):
        run(f"crash-{k}", SHORT, crash_at=k, sabotage=sabotage)
        try:
            run(f"crash-{k}", SHORT)
        except AssertionError:
            return
        if contents(tmp_path / f"crash-{k}") != files:
            return
    pytest.fail("Every run went on as if its saves had no weak moment.")
