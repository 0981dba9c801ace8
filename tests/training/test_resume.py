"""A run that stopped goes on as if it had never stopped, and what does not belong together is refused."""

import json
import re
import shutil

import numpy as np
import pytest
import small_runs
from safetensors.numpy import load_file, save_file
from small_runs import TEXT, contents, resume, start

from tinyllama.tokenizers import CharacterTokenizer
from tinyllama.training import run as run_module
from tinyllama.training.checkpoints import latest_checkpoint

SHORT = {"steps": 6, "evaluate_every": 2}


@pytest.fixture(autouse=True)
def only_the_training(monkeypatch):
    small_runs.only_the_training(monkeypatch.setattr)


@pytest.fixture
def source(tmp_path):
    """Where the text of the runs is."""
    file = tmp_path / "text.txt"
    file.write_text(TEXT, encoding="utf-8")
    return str(file)


@pytest.fixture
def folder(tmp_path):
    """A folder of 30 short texts."""
    (tmp_path / "texts").mkdir()
    for number, line in enumerate(TEXT.splitlines()[:30]):
        (tmp_path / "texts" / f"{number:02}.txt").write_text(line[:5 + number], encoding="utf-8")
    return str(tmp_path / "texts")


@pytest.fixture
def snapshots(tmp_path, monkeypatch):
    """Copies of a run as it is after each checkpoint, as a crash there would leave it: {step: directory}."""
    taken, original = {}, run_module.write_checkpoint

    def write_checkpoint(out, model, optimizer, facts):
        original(out, model, optimizer, facts)
        if facts["step"] not in taken:
            taken[facts["step"]] = shutil.copytree(out, tmp_path / f"after-{facts['step']}")

    monkeypatch.setattr(run_module, "write_checkpoint", write_checkpoint)
    return taken


@pytest.fixture
def crashed(source, snapshots, tmp_path):
    """A run that has come to step 2 of 6."""
    start({"data": source, "out": tmp_path / "out", **SHORT})
    return snapshots[2]


# ---- as if it had never stopped

@pytest.mark.parametrize("settings", [
    {}, {"optimizer": "sgd"}, {"workers": 1}, {"micro_steps": 2}, {"dropout": 0.0, "l2": 0.1, "schedule": "linear"},
    {"label_smoothing": 0.1, "workers": None}, {"context": 32, "max_grad_norm": 0.1, "key_value_heads": 1},
], ids=lambda settings: " ".join(f"{name}={value}" for name, value in settings.items()) or "as it is")
@pytest.mark.parametrize("kind", ["windows", "packed documents"])
def test_a_run_goes_on_from_every_checkpoint_to_the_same_bytes(kind, settings, source, folder, snapshots, tmp_path):
    start({"data": source if kind == "windows" else folder, "out": tmp_path / "out", **SHORT, **settings})
    files = contents(tmp_path / "out")
    assert sorted(snapshots) == [0, 2, 4, 6]
    for step, directory in snapshots.items():
        assert f"from step {step + 1} on" in resume(directory) or step in (0, 6)
        assert contents(directory) == files


def test_a_run_that_begins_with_another_model_goes_on_when_that_is_gone(source, snapshots, tmp_path):
    start({"data": source, "out": tmp_path / "base", **SHORT, "seed": 7})
    snapshots.clear()
    for directory in tmp_path.glob("after-*"):
        shutil.rmtree(directory)
    start({"data": source, "from_model": tmp_path / "base", "out": tmp_path / "out", **SHORT})
    files = contents(tmp_path / "out")
    shutil.rmtree(tmp_path / "base")
    (tmp_path / "text.txt").unlink()
    for directory in snapshots.values():
        resume(directory)
        assert contents(directory) == files


def test_a_run_may_be_moved_and_its_text_may_change(crashed, tmp_path):
    (tmp_path / "text.txt").write_text("another text", encoding="utf-8")
    moved = crashed.rename(tmp_path / "a new place")
    resume(moved)
    assert contents(moved) == contents(tmp_path / "out")


def test_the_forecast_does_not_touch_the_run(source, tmp_path, monkeypatch):
    from tinyllama.training.forecast import forecast
    start({"data": source, "out": tmp_path / "without", **SHORT})
    monkeypatch.setattr(run_module, "forecast", forecast)
    start({"data": source, "out": tmp_path / "with", **SHORT})
    assert contents(tmp_path / "with") == contents(tmp_path / "without")


def test_a_run_that_is_complete_only_redraws_its_end(source, tmp_path, monkeypatch):
    out, drawn = tmp_path / "out", []
    start({"data": source, "out": out, **SHORT})
    files, seen = contents(out), []
    monkeypatch.setattr(run_module._Run, "_draw", lambda self: drawn.append(self.step))
    monkeypatch.setattr(run_module._Run, "_write_checkpoint", lambda self: seen.append(self.step))
    resume(out)
    assert contents(out) == files
    assert (drawn, seen) == ([6], [])


def test_a_resumed_run_says_how_many_steps_are_left_and_keeps_the_best(crashed):
    best = latest_checkpoint(crashed).facts["best"]
    said = resume(crashed)
    assert "Steps: 6, each on 3 rows of 8 tokens, from step 3 on." in said
    assert latest_checkpoint(crashed).facts["best"][1] <= best[1]


def test_an_optimizer_that_forgets_is_noticed(crashed, tmp_path):
    file = latest_checkpoint(crashed).directory / "optimizer.safetensors"
    save_file({name: np.zeros_like(array) for name, array in load_file(file).items()}, file)
    resume(crashed)
    assert contents(crashed)["model.safetensors"] != contents(tmp_path / "out")["model.safetensors"]


# ---- what does not belong together

def edit(file, **changes):
    document = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(document | changes), encoding="utf-8")


def refused(out, message, error=ValueError):
    """The run is refused, and left as it is."""
    before = contents(out) if out.is_dir() else None
    with pytest.raises(error, match=message) as raised:
        resume(out)
    assert "[Errno" not in str(raised.value)
    assert before is None or contents(out) == before


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-10])


def test_where_no_run_is_none_can_go_on(tmp_path):
    for out in (tmp_path / "nowhere", tmp_path):
        refused(out, r"out: expected the directory of a run, which holds run\.json, got .* without it",
                FileNotFoundError)


@pytest.mark.parametrize("name", ["run.json", "data/corpus.json"])
@pytest.mark.parametrize(("version", "shown"), [(2, "2"), ("1", "'1'"), (None, "None")])
def test_a_file_of_another_version_is_refused(name, version, shown, crashed):
    edit(crashed / name, version=version)
    refused(crashed, f'{name}: expected "version" to be 1, got {shown}; another version of tinyllama wrote this run')


def test_a_checkpoint_of_another_version_is_refused(crashed):
    edit(latest_checkpoint(crashed).directory / "training.json", version=2)
    refused(crashed, r'training\.json: expected "version" to be 1, got 2')


@pytest.mark.parametrize("name", ["run.json", "data/corpus.json", "checkpoints/step-000002/training.json",
                                  "checkpoints/step-000002/config.json"])
def test_a_damaged_json_file_is_refused(name, crashed):
    cut_short(crashed / name)
    refused(crashed, f"{name}: expected JSON, got a file that is not JSON or was cut short")


@pytest.mark.parametrize("changes", [{"settings": None}, {"settings": {"colour": "red"}}, {"settings": {"steps": "6"}},
                                     {"config": None}, {"config": {}}])
def test_a_run_without_its_settings_is_refused(changes, crashed):
    edit(crashed / "run.json", **changes)
    refused(crashed, r"run\.json: expected the settings of a run, got others")


@pytest.mark.parametrize(("name", "value"), [("rms_norm_eps", 1e-3), ("hidden_size", 16), ("dropout", 0.3)])
def test_a_checkpoint_of_another_configuration_is_refused(name, value, crashed):
    for file in (crashed / "run.json", latest_checkpoint(crashed).directory / "config.json"):
        before = file.read_bytes()
        config = json.loads(before)
        edit(file, **({"config": config["config"] | {name: value}} if "config" in config else {name: value}))
        refused(crashed, rf"expected the configuration of the run, with {name} |the weights are not those that")
        file.write_bytes(before)


def test_another_tokenizer_of_the_same_size_is_refused(crashed):
    vocab_size = CharacterTokenizer.load(crashed).vocab_size
    CharacterTokenizer("".join(map(chr, range(1000, 1000 + vocab_size)))).save(crashed)
    refused(crashed, r"tokenizer\.json: expected the tokenizer that .*step-000002 was trained with \(SHA-256 \w{12}")


@pytest.mark.parametrize("name", ["optimizer.safetensors", "model.safetensors"])
def test_weights_and_moments_that_were_cut_short_are_refused(name, crashed):
    cut_short(latest_checkpoint(crashed).directory / name)
    refused(crashed, f"{name}: expected ")


def test_moments_of_another_size_or_another_optimizer_are_refused(crashed):
    file = latest_checkpoint(crashed).directory / "optimizer.safetensors"
    arrays = load_file(file)
    for others in ({name: array[1:] for name, array in arrays.items()}, {"velocity": arrays["m"]}, {"m": arrays["m"]},
                   {name: array.astype(np.float64) for name, array in arrays.items()}):
        save_file(others, file)
        refused(crashed, r"optimizer\.safetensors: expected the memory of the optimizer, got another file")


@pytest.mark.parametrize("name", ["data/train.npy", "data/validation.npy", "data/train-starts.npy", "tokenizer.json"])
def test_data_and_tokenizers_that_were_cut_short_or_lost_are_refused(name, crashed):
    file = crashed / name
    cut_short(file)
    refused(crashed, f"{name}|{file.parent}")
    file.write_bytes(b"")
    refused(crashed, f"{name}|{file.parent}")
    file.unlink()
    refused(crashed, f"{name}|{file.parent}: expected", FileNotFoundError)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "optimizer.safetensors", "training.json"])
def test_a_checkpoint_that_lacks_a_file_is_refused(name, crashed):
    (latest_checkpoint(crashed).directory / name).unlink()
    refused(crashed, f"step-000002.*{name}", (ValueError, FileNotFoundError))


def test_metrics_with_a_torn_last_line_are_fine(crashed, tmp_path):
    with open(crashed / "metrics.jsonl", "a", encoding="utf-8") as stream:
        stream.write('{"step": 3, "loss": 2.1}\n{"step": 4, "lo')
    resume(crashed)
    assert contents(crashed) == contents(tmp_path / "out")


def test_metrics_damaged_elsewhere_are_refused(crashed):
    file = crashed / "metrics.jsonl"
    file.write_text("no JSON\n" + file.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(ValueError, match=r'metrics\.jsonl: expected a JSON object with a "step" in line 1, got a'):
        resume(crashed)
    file.unlink()
    resume(crashed)     # the run needs none


# ---- a loss that is no number

@pytest.mark.parametrize("learning_rate", [1e30, 1e38])
def test_a_run_that_explodes_says_where_and_keeps_the_last_good_checkpoint(learning_rate, source, tmp_path):
    from tinyllama.formats import load
    out = tmp_path / "out"
    rate = re.escape(f"{learning_rate:g}")
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=(
            rf"expected a number, got (nan|inf) in step \d; try a learning rate below {rate}\. "
            r"The state after step \d is kept in .*step-00000\d")):
        start({"data": source, "out": out, **SHORT, "learning_rate": learning_rate, "warmup_steps": 0,
               "evaluate_every": 1, "workers": 1})     # NumPy's warnings are silenced in this thread
    last = latest_checkpoint(out)
    model = load(last.directory)
    assert all(np.isfinite(weight).all() for weight in model.parameters.values())
    for row in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        assert np.isfinite(list(json.loads(row).values())).all()
