"""Checkpoints, written and read without a run around them."""

import errno
import json
import os

import numpy as np
import pytest

from tinyllama.models import Llama, LlamaConfig
from tinyllama.tokenizers import CharacterTokenizer
from tinyllama.training import checkpoints
from tinyllama.training.checkpoints import (
    latest_checkpoint,
    load_checkpoint,
    read_versioned,
    replace_text,
    write_checkpoint,
    write_json,
)
from tinyllama.training.trainer import TrainingSettings, make_optimizer

CONFIG = LlamaConfig(vocab_size=7, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                     num_key_value_heads=1, max_position_embeddings=8)
FILES = ["config.json", "model.safetensors", "optimizer.safetensors", "tokenizer.json", "training.json"]


@pytest.fixture(autouse=True)
def tokenizer_of_the_run(tmp_path):
    """What a run has before its first checkpoint."""
    CharacterTokenizer("abcdefg").save(tmp_path)


def trained(steps=3, optimizer="adamw", seed=0):
    """A model and its optimizer after some steps."""
    model = Llama(CONFIG, seed=seed, workers=1)
    optimizer = make_optimizer(model, TrainingSettings(optimizer=optimizer))
    ids = np.array([[1, 2, 3], [4, 5, 6]])
    for _ in range(steps):
        model.loss_and_grads(ids, ids)
        optimizer.step()
    return model, optimizer


def loaded(checkpoint, optimizer="adamw", config=CONFIG):
    settings = TrainingSettings(optimizer=optimizer)
    return load_checkpoint(checkpoint, lambda model: make_optimizer(model, settings), config=config, backend="numpy",
                           workers=1)


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
@pytest.mark.parametrize("steps", [0, 3])
def test_a_checkpoint_brings_back_the_model_and_the_optimizer_bit_for_bit(steps, kind, tmp_path):
    model, optimizer = trained(steps, kind)
    write_checkpoint(tmp_path, model, optimizer, {"step": steps, "best": (2, 1.25)})
    checkpoint = latest_checkpoint(tmp_path)
    assert names(checkpoint.directory) == FILES
    assert checkpoint.directory == tmp_path / "checkpoints" / f"step-{steps:06d}"
    assert (checkpoint.step, checkpoint.facts) == (steps, {"version": 1, "step": steps, "best": [2, 1.25]})
    its_model, its_optimizer = loaded(checkpoint, kind)
    np.testing.assert_array_equal(its_model.parameters.trainable, model.parameters.trainable)
    assert its_optimizer.steps == steps
    for name, array in optimizer.state().items():
        np.testing.assert_array_equal(its_optimizer.state()[name], array)


def test_a_new_checkpoint_replaces_the_old_one(tmp_path):
    model, optimizer = trained()
    for step in (0, 3, 1_000_000):
        write_checkpoint(tmp_path, model, optimizer, {"step": step})
        assert latest_checkpoint(tmp_path).step == step
        assert names(tmp_path / "checkpoints") == [f"step-{step:06d}"]


def test_where_no_checkpoint_is_none_is_found(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    (tmp_path / "checkpoints" / "step-000001.new").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-best").mkdir()
    assert latest_checkpoint(tmp_path) is None


def test_what_others_put_beside_the_checkpoints_stays(tmp_path):
    model, optimizer = trained()
    write_checkpoint(tmp_path, model, optimizer, {"step": 1})
    (tmp_path / "checkpoints" / "step-000001-good").mkdir()
    (tmp_path / "checkpoints" / "notes.md").write_text("mine", encoding="utf-8")
    (tmp_path / "checkpoints" / "step-000001.new").mkdir()
    write_checkpoint(tmp_path, model, optimizer, {"step": 2})
    assert names(tmp_path / "checkpoints") == ["notes.md", "step-000001-good", "step-000002"]


def test_a_checkpoint_is_never_written_a_second_time(tmp_path):
    """For that it would have to be removed first, and for a moment there would be none."""
    write_checkpoint(tmp_path, *trained(), {"step": 1})
    before = (latest_checkpoint(tmp_path).directory / "model.safetensors").read_bytes()
    with pytest.raises(OSError, match="step-000001"):
        write_checkpoint(tmp_path, *trained(seed=5), {"step": 1})
    assert (latest_checkpoint(tmp_path).directory / "model.safetensors").read_bytes() == before
    assert names(tmp_path / "checkpoints") == ["step-000001"]


def test_every_file_is_on_the_disk_before_the_checkpoint_has_its_name(tmp_path, monkeypatch):
    """No kill of a process shows this, only a power failure: so the order of the calls is looked at."""
    calls, fsync, rename = [], os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda number: (calls.append(os.fstat(number).st_ino), fsync(number)))
    monkeypatch.setattr(os, "rename", lambda old, new: (calls.append("rename"), rename(old, new)))
    write_checkpoint(tmp_path, *trained(), {"step": 1})
    at = calls.index("rename")
    directory = latest_checkpoint(tmp_path).directory
    needed = {path.stat().st_ino for path in directory.iterdir()}
    if os.name != "nt":
        needed.add(directory.stat().st_ino)
        assert calls[at + 1:] == [directory.parent.stat().st_ino]
    assert needed <= set(calls[:at])


def test_a_checkpoint_that_cannot_be_completed_leaves_no_trace(tmp_path, monkeypatch):
    model, optimizer = trained()
    write_checkpoint(tmp_path, model, optimizer, {"step": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(tmp_path, model, optimizer, {"step": 2})
    assert names(tmp_path / "checkpoints") == ["step-000001"]
    assert loaded(latest_checkpoint(tmp_path))[1].steps == 1


def test_another_configuration_or_another_optimizer_is_refused(tmp_path):
    write_checkpoint(tmp_path, *trained(), {"step": 3})
    checkpoint = latest_checkpoint(tmp_path)
    other = LlamaConfig.from_dict(CONFIG.to_dict() | {"rope_theta": 500.0})
    with pytest.raises(ValueError, match=r"step-000003: expected the configuration of the run, with rope_theta 500\.0, "
                                         r"got 10000\.0"):
        loaded(checkpoint, config=other)
    with pytest.raises(ValueError, match=r"optimizer\.safetensors: expected the memory of the optimizer, .*velocity"):
        loaded(checkpoint, "sgd")


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_refused(content, tmp_path):
    file = tmp_path / "some.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"some\.json: expected JSON, got a file that is not JSON or was cut short"):
        read_versioned(file, 1)


@pytest.mark.parametrize(("content", "shown"), [("[]", "None"), ("{}", "None"), ('{"version": 2}', "2"),
                                                ('{"version": "1"}', "'1'"), ('"version"', "None")])
def test_what_has_another_version_or_none_is_refused(content, shown, tmp_path):
    file = tmp_path / "some.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=rf'some\.json: expected "version" to be 1, got {shown};'):
        read_versioned(file, 1)


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"some\.json: expected a file of the run, got a path where nothing is"):
        read_versioned(tmp_path / "some.json", 1)


def test_a_file_is_replaced_at_once_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "some.json"
    write_json(file, {"a": 1})

    def fails(*_):
        raise OSError("no")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="no"):
        replace_text(file, "another")
    assert json.loads(file.read_text(encoding="utf-8")) == {"a": 1}
    assert names(tmp_path) == ["some.json", "tokenizer.json"]
