"""metrics.jsonl, and TensorBoard's event file beside it."""

import importlib.util
import json
import struct

import pytest

from tinyllama.training.metrics import MetricsLog, read_metrics

needs_tensorboard = pytest.mark.skipif(importlib.util.find_spec("tensorboardX") is None,
                                       reason="tensorboardX is not installed.")


def lines(run):
    return (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()


def scalars(run):
    """[(name, step, figure), ...] of all event files, in the order in which they were written."""
    from tensorboardX.proto.event_pb2 import Event
    found = []
    for file in sorted((run / "tensorboard").iterdir()):
        data, place = file.read_bytes(), 0
        while place < len(data):        # length (8 bytes), its checksum (4), the event, its checksum (4)
            length, = struct.unpack_from("<Q", data, place)
            event = Event.FromString(data[place + 12:place + 12 + length])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            place += length + 16
    return found


@pytest.fixture
def without_tensorboard(monkeypatch):
    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec",
                        lambda name, *rest: None if name == "tensorboardX" else original(name, *rest))


def test_every_call_is_a_line_of_json(tmp_path):
    with MetricsLog(tmp_path, 0) as log:
        log.write(1, loss=2.5, gradient_norm=0.5)
        log.write(1, validation_loss=2.25)
        log.write(2, loss=2.0)
    assert [json.loads(line) for line in lines(tmp_path)] == [
        {"step": 1, "loss": 2.5, "gradient_norm": 0.5}, {"step": 1, "validation_loss": 2.25}, {"step": 2, "loss": 2.0}]
    assert read_metrics(tmp_path) == ([2.5, 2.0], [(1, 2.25)])


def test_where_no_metrics_are_none_are_read(tmp_path):
    assert read_metrics(tmp_path) == ([], [])


def test_a_log_goes_on_after_its_first_step_and_drops_the_rest(tmp_path):
    with MetricsLog(tmp_path, 0) as log:
        for step in (1, 2, 3, 4):
            log.write(step, loss=1 / step)
    with open(tmp_path / "metrics.jsonl", "a", encoding="utf-8") as stream:
        stream.write('{"step": 5, "lo')
    with MetricsLog(tmp_path, 2) as log:
        log.write(3, loss=0.3)
    assert read_metrics(tmp_path)[0] == [1.0, 0.5, 0.3]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["metrics.jsonl"]


def test_the_torn_end_of_a_file_is_not_read(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}', encoding="utf-8")
    assert read_metrics(tmp_path) == ([0.5], [])


@pytest.mark.parametrize("line", ["", "[]", "{}", '{"step": "1"}', "\0\0\0", '{"step": 1', "\xff"])
def test_a_damaged_line_is_named(line, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n' + line + '\n{"step": 2}\n', encoding="latin-1")
    with pytest.raises(ValueError, match=r'metrics\.jsonl: expected a JSON object with a "step" in line 2, got a line'):
        read_metrics(tmp_path)


def test_what_is_flushed_can_be_read_while_the_log_is_open(tmp_path):
    with MetricsLog(tmp_path, 0) as log:
        log.write(1, loss=0.5)
        log.flush()
        assert read_metrics(tmp_path) == ([0.5], [])


def test_a_figure_that_is_no_number_is_not_written(tmp_path):
    with MetricsLog(tmp_path, 0) as log, pytest.raises(ValueError, match="not JSON compliant"):
        log.write(1, loss=float("nan"))
    assert lines(tmp_path) == []


@needs_tensorboard
def test_tensorboard_gets_every_figure(tmp_path):
    with MetricsLog(tmp_path, 0) as log:
        log.write(1, loss=2.5, gradient_norm=0.5)
        log.write(1, validation_loss=2.25)
        log.flush()
        assert scalars(tmp_path) == [("loss", 1, 2.5), ("gradient_norm", 1, 0.5), ("validation_loss", 1, 2.25)]


@needs_tensorboard
def test_after_a_crash_tensorboard_has_every_step_once(tmp_path):
    log = MetricsLog(tmp_path, 0)
    for step in (1, 2, 3, 4):
        log.write(step, loss=step)
    log.flush()
    with log, MetricsLog(tmp_path, 2) as second:        # the first was never closed when the second began
        second.write(3, loss=3.5)
    assert scalars(tmp_path) == [("loss", 1, 1.0), ("loss", 2, 2.0), ("loss", 3, 3.5)]


@needs_tensorboard
def test_a_run_that_tensorboard_comes_to_late_is_shown_from_its_first_step(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        with MetricsLog(tmp_path, 0) as log:
            log.write(1, loss=1.5)
    with MetricsLog(tmp_path, 1) as log:
        log.write(2, loss=0.5)
    assert scalars(tmp_path) == [("loss", 1, 1.5), ("loss", 2, 0.5)]


def test_without_tensorboard_there_is_no_folder_for_it(tmp_path, without_tensorboard):
    with MetricsLog(tmp_path, 0) as log:
        log.write(1, loss=2.5)
        log.flush()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
