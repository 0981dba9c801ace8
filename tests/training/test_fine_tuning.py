"""Training that begins with a model that has learned already: all of it, or LoRA's updates alone."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import llama2c_files
import numpy as np
import pytest
import small_runs
from command_line import assert_is_a_mistake, command_line
from sentencepiece_files import llama2c_file, llama2c_pieces
from small_runs import TEXT, contents, resume, start

import tinyllama as tl
from tinyllama.formats import peft
from tinyllama.generation.writing import write
from tinyllama.tokenizers import CharacterTokenizer, load_tokenizer
from tinyllama.training import run as run_module
from tinyllama.training.checkpoints import latest_checkpoint
from tinyllama.training.metrics import read_metrics
from tinyllama.training.settings import FINE_TUNING_RATE, LORA_RATE, RunSettings

SHORT = {"steps": 6, "evaluate_every": 2}
LORA = {"lora_rank": 3, "lora_targets": "q_proj,down_proj", "lora_alpha": 6.0}
OTHER = "".join(f"a box had {number} cats on it, and the fox sat.\n" for number in range(10, 60))


@pytest.fixture(autouse=True)
def only_the_training(monkeypatch):
    small_runs.only_the_training(monkeypatch.setattr)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model that has learned TEXT, with the characters of both texts."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "text.txt").write_text(TEXT + OTHER, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        small_runs.only_the_training(patch.setattr)
        start({"data": str(folder / "text.txt"), "out": folder / "base", "seed": 7})
    return folder / "base"


@pytest.fixture
def text(tmp_path):
    """Another text, to be learned."""
    (tmp_path / "other.txt").write_text(OTHER, encoding="utf-8")
    return str(tmp_path / "other.txt")


@pytest.fixture
def snapshots(tmp_path, monkeypatch):
    """Copies of a run as it is after each checkpoint, as a crash there would leave it: {step: directory}."""
    taken, original = {}, run_module.write_checkpoint

    def write_checkpoint(out, model, optimizer, facts):
        original(out, model, optimizer, facts)
        taken.setdefault(facts["step"], shutil.copytree(out, tmp_path / f"after-{facts['step']}", dirs_exist_ok=True))

    monkeypatch.setattr(run_module, "write_checkpoint", write_checkpoint)
    return taken


@pytest.fixture
def tinyllama(monkeypatch, capsys, tmp_path, text):
    return command_line(monkeypatch, capsys, tmp_path)


def weights(path):
    return {name: np.array(array) for name, array in tl.load(path).parameters.items()}


# ---- in full

@pytest.fixture(params=["a directory", "llama2.c"])
def saved(request, base, tmp_path):
    """A base in every format that can be written, and its tokenizer where that is no part of it: settings of a run."""
    if request.param == "a directory":
        return {"from_model": base}
    settings = {"rope_theta": 10000.0, "rms_norm_eps": 1e-5}
    config = tl.LlamaConfig(**{**settings, "vocab_size": tl.load(base).config.vocab_size, "hidden_size": 8,
                               "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
                               "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2})
    tl.save(tl.Llama(config), tmp_path / "model.bin")
    return {"from_model": tmp_path / "model.bin", "tokenizer": base}


@pytest.mark.parametrize("lora", [{}, LORA], ids=["in full", "LoRA"])
def test_a_run_begins_with_the_weights_of_any_checkpoint_and_with_its_tokenizer(lora, saved, text, tmp_path):
    start({"data": text, "out": tmp_path / "out", **saved, **lora, **SHORT, "steps": 1, "learning_rate": 1e-9,
           "weight_decay": 0.0, "dropout": 0.0})
    before, after = weights(saved["from_model"]), weights(tmp_path / "out")
    assert list(after) == list(before)
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, rtol=0, atol=1e-6)
    tokenizer = load_tokenizer(saved.get("tokenizer", saved["from_model"]))
    assert load_tokenizer(tmp_path / "out").encode("the fox") == tokenizer.encode("the fox")


def test_all_weights_move_in_full(base, text, tmp_path):
    start({"data": text, "from_model": base, "out": tmp_path / "out", **SHORT, "learning_rate": 0.01})
    before, after = weights(base), weights(tmp_path / "out")
    assert all(not np.array_equal(after[name], array) for name, array in before.items())


@pytest.mark.parametrize("lora", [{}, {"lora_rank": 8, "lora_alpha": 32.0, "lora_targets": "all-linear"}],
                         ids=["in full", "LoRA"])
def test_the_loss_goes_down(lora, base, text, tmp_path):
    start({"data": text, "from_model": base, "out": tmp_path / "out", **lora, "steps": 120, "evaluate_every": 120,
           "batch_size": 6, "learning_rate": 0.03, "dropout": 0.0})
    losses, _ = read_metrics(tmp_path / "out")
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 0.2


# ---- with LoRA

@pytest.fixture
def tuned(base, text, tmp_path):
    """A run with LoRA."""
    start({"data": text, "from_model": base, "out": tmp_path / "tuned", **LORA, **SHORT, "learning_rate": 0.03})
    return tmp_path / "tuned"


def test_a_run_with_lora_holds_the_updates_and_the_name_of_its_base(tuned, base):
    files = {path.name for path in tuned.iterdir()} - {"tensorboard"}
    assert files == {"run.json", "tokenizer.json", "data", "checkpoints", "adapter_config.json", "metrics.jsonl",
                     "adapter_model.safetensors"}
    checkpoint = latest_checkpoint(tuned)
    assert sorted(path.name for path in checkpoint.directory.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "optimizer.safetensors", "tokenizer.json", "training.json"]
    assert checkpoint.facts["base"]["path"] == str(base.resolve())
    settings, name = peft.read_config(tuned)
    assert (settings.rank, settings.alpha, set(settings.target_modules)) == (3, 6, {"q_proj", "down_proj"})
    assert name == str(base.resolve())
    of_updates = sum(path.stat().st_size for path in checkpoint.directory.iterdir())
    assert of_updates < sum(path.stat().st_size for path in latest_checkpoint(base).directory.iterdir())


def test_the_weights_of_the_base_are_in_the_merged_model_bit_for_bit_where_nothing_was_added(tuned, base):
    before, after = weights(base), weights(tuned)
    for name, array in before.items():
        is_target = name.endswith(("q_proj.weight", "down_proj.weight"))
        assert np.array_equal(after[name], array) != is_target, name


@pytest.mark.parametrize("settings", [{}, {"workers": 1}, {"micro_steps": 2}, {"optimizer": "sgd"}, {"dropout": 0.0},
                                      {"lora_targets": "all-linear"}], ids=str)
def test_a_run_with_lora_goes_on_from_every_checkpoint_to_the_same_bytes(settings, base, text, snapshots, tmp_path):
    start({"data": text, "from_model": base, "out": tmp_path / "out", **LORA, **SHORT, **settings})
    files = contents(tmp_path / "out")
    assert sorted(snapshots) == [0, 2, 4, 6]
    for directory in snapshots.values():
        resume(directory)
        assert contents(directory) == files


def test_an_update_that_is_not_read_would_be_noticed(base, text, snapshots, tmp_path, monkeypatch):
    start({"data": text, "from_model": base, "out": tmp_path / "out", **LORA, **SHORT})
    monkeypatch.setattr("tinyllama.training.checkpoints.read_updates", lambda *_: None)
    resume(snapshots[4])
    assert contents(snapshots[4])["checkpoints/step-000006/adapter_model.safetensors"] != \
        contents(tmp_path / "out")["checkpoints/step-000006/adapter_model.safetensors"]


def test_a_run_with_lora_does_not_go_on_with_another_base_or_none(base, text, snapshots, tmp_path):
    copy = shutil.copytree(base, tmp_path / "copy")
    start({"data": text, "from_model": copy, "out": tmp_path / "out", **LORA, **SHORT})
    model = tl.load(copy)
    model.parameters["model.norm.weight"][0] += 1e-3
    tl.save(model, copy)
    before = contents(snapshots[2])
    with pytest.raises(ValueError, match=r"expected the model that the run began with, whose weights have the CRC-32"):
        resume(snapshots[2])
    shutil.rmtree(copy)
    with pytest.raises(FileNotFoundError, match="copy: expected the model that the run begins with and needs to go on"):
        resume(snapshots[2])
    assert contents(snapshots[2]) == before


def test_a_run_goes_on_from_another_directory(base, text, snapshots, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(base.parent)
    start({"data": text, "from_model": Path(base.name), "tokenizer": Path(base.name), "out": tmp_path / "out", **LORA,
           **SHORT})
    settings = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["settings"]
    assert settings["from_model"] == settings["tokenizer"] == str(base.resolve())
    monkeypatch.chdir(tmp_path / "elsewhere")
    resume(snapshots[2])
    assert contents(snapshots[2]) == contents(tmp_path / "out")


def test_a_run_may_begin_with_one_with_lora(tuned, text, tmp_path):
    start({"data": text, "from_model": tuned, "out": tmp_path / "again", **LORA, **SHORT})
    start({"data": text, "from_model": tuned, "out": tmp_path / "full", **SHORT, "steps": 1, "learning_rate": 1e-9,
           "weight_decay": 0.0})
    assert peft.read_config(tmp_path / "again")[1] == str(tuned.resolve())
    before, after = weights(tuned), weights(tmp_path / "full")
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, rtol=0, atol=1e-6)
    assert tl.load(tmp_path / "again").config == tl.load(tuned).config


# ---- on the command line

TINY = ("--data", "other.txt", "--context", 8, "--batch-size", 3, "--steps", 2, "--workers", 1)


def test_train_with_lora_then_generate_and_evaluate(tinyllama, base, tmp_path):
    result = tinyllama("train", *TINY, "--from", base, "--out", "new", "--lora-rank", 2, "--lora-alpha", 4,
                       "--lora-targets", "v_proj")
    assert (result.code, result.err) == (0, ""), result
    assert "They stay as they are; LoRA of rank 2 trains 32 numbers beside them." in result.out
    settings = json.loads((tmp_path / "new" / "run.json").read_text(encoding="utf-8"))["settings"]
    assert (settings["lora_rank"], settings["lora_alpha"], settings["lora_targets"]) == (2, 4.0, "v_proj")
    assert settings["learning_rate"] == LORA_RATE
    merged = tl.load_adapter(base, tmp_path / "new")
    expected = "".join(write(tl.merge_lora(merged), load_tokenizer(base), "the", max_new_tokens=4, temperature=0))
    written = tinyllama("generate", "new", "--prompt", "the", "--max-new-tokens", 4, "--temperature", 0)
    assert written == (0, f"the{expected}\n", "")
    assert tinyllama("evaluate", "new", "--data", "other.txt").code == 0
    assert "Steps: 2, " in tinyllama("train", "--resume", "--out", "new").out
    assert_is_a_mistake(tinyllama("train", *TINY, "--out", "new"), "out: expected a directory without a model, but new")


def test_fine_tuning_has_a_gentler_learning_rate_of_its_own(tinyllama, base, monkeypatch):
    received = []
    monkeypatch.setattr(run_module, "run_training", received.append)
    for more in ((), ("--lora-rank", 2), ("--learning-rate", 0.5), ("--preset", "pocket")):
        assert tinyllama("train", *TINY, "--from", base, *more).code == 0
    assert [settings.learning_rate for settings in received] == [FINE_TUNING_RATE, LORA_RATE, 0.5, FINE_TUNING_RATE]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--lora-rank", 0], "lora: rank: expected a whole number of at least 1, got 0"),
    (["--lora-rank", 2, "--lora-alpha", 0], "lora: alpha: expected a number above 0, got 0.0"),
    (["--lora-rank", 2, "--lora-alpha", -3], "lora: alpha: expected a number above 0, got -3.0"),
    (["--lora-rank", 2, "--lora-targets", "q_proj,c_attn"], "target_modules: expected names among down_proj, "),
    (["--lora-alpha", 4], "lora_alpha: expected none without a lora_rank, got 4.0"),
    (["--lora-rank", 2, "--lora-targets", ""], "lora_targets: expected names with commas between, got ''"),
    (["--lora-rank", 2, "--lora-targets", "q_proj,"], "lora_targets: expected names with commas between, got 'q_pro"),
    (["--lora-targets", "q_proj"], "lora_targets: expected none without a lora_rank, got 'q_proj'"),
    (["--lora-rank", 2, "--hidden-size", 8], "from: expected no --hidden-size beside it"),
    (["--vocab-size", 300], "from: expected no --vocab-size beside it"),
    (["--context", 9], "context: expected at most 8, as the model in"),
    (["--resume"], "resume: expected no --data, --from, --context"),
])
def test_settings_that_do_not_go_together_are_refused_by_name(arguments, message, tinyllama, base, tmp_path):
    assert_is_a_mistake(tinyllama("train", *TINY, "--out", "new", "--from", base, *arguments), message)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("text", "targets"), [
    ("q_proj, v_proj ", ("q_proj", "v_proj")), (" all-linear", "all-linear"), (None, ("q_proj", "v_proj"))])
def test_targets_may_be_typed_with_spaces(text, targets):
    settings = RunSettings(from_model=Path("base"), lora_rank=2, lora_targets=text)
    assert settings.lora.target_modules == targets


def test_without_a_base_there_is_no_lora(tinyllama):
    assert_is_a_mistake(tinyllama("train", *TINY, "--lora-rank", 2),
                        "lora_rank: expected none without a model to begin with")
    with pytest.raises(ValueError, match="lora_rank: expected none without a model to begin with"):
        RunSettings(lora_rank=2)


@pytest.fixture
def other_sizes(base, tmp_path):
    """Tokenizers with more tokens than `base` and with fewer: larger.json and smaller.json."""
    tl.train_tokenizer(OTHER * 3, vocab_size=300).save(tmp_path / "larger.json")
    CharacterTokenizer.train(OTHER).save(tmp_path / "smaller.json")
    assert load_tokenizer(tmp_path / "smaller.json").vocab_size < tl.load(base).config.vocab_size


@pytest.mark.parametrize("name", ["larger.json", "smaller.json"])
def test_a_tokenizer_of_another_size_than_the_models_own_is_refused(name, other_sizes, tinyllama, base, tmp_path):
    size, given = tl.load(base).config.vocab_size, load_tokenizer(tmp_path / name).vocab_size
    assert_is_a_mistake(tinyllama("train", *TINY, "--out", "new", "--from", base, "--tokenizer", name),
                        f"tokenizer: expected none beside the model's own, or one of {size} tokens as it has, got "
                        f"{name} with {given}")


def test_a_model_without_a_tokenizer_needs_one_that_it_has_the_tokens_of(other_sizes, tinyllama, base, tmp_path):
    bare = shutil.copytree(base, tmp_path / "bare")
    (bare / "tokenizer.json").unlink()
    train = ("train", *TINY, "--out", "new", "--from", "bare")
    assert_is_a_mistake(tinyllama(*train), "; --tokenizer names the one that belongs to the model")
    assert_is_a_mistake(tinyllama(*train, "--tokenizer", "larger.json"),
                        f"tokenizer: expected one of at most {tl.load(base).config.vocab_size} tokens, as the model "
                        "has, got one of 300")
    assert tinyllama(*train, "--tokenizer", "smaller.json").code == 0


def test_the_tokenizer_beside_a_file_of_llama2c_is_found(tinyllama, tmp_path, rng):
    config, tensors = llama2c_files.random_weights(rng, vocab_size=300)
    (tmp_path / "model.bin").write_bytes(llama2c_files.version_1(config, tensors))
    train = ("train", *TINY, "--out", "new", "--from", "model.bin")
    assert_is_a_mistake(tinyllama(*train), "tokenizer.bin: expected a tokenizer's file or a directory")
    (tmp_path / "tokenizer.bin").write_bytes(llama2c_file(llama2c_pieces(" ", "a")))
    assert tinyllama(*train).code == 0


@pytest.mark.parametrize(("name", "message"), [
    ("missing", "missing: expected the model that the run begins with"), ("empty", "expected the configuration of a"),
    ("base/model.safetensors", "got a file of safetensors; load the directory that it is in"),
])
def test_what_is_no_model_is_said_before_the_text_is_read(name, message, tinyllama, base, tmp_path, monkeypatch):
    monkeypatch.setattr("tinyllama.training.preparation.read_corpus", None)
    (tmp_path / "empty").mkdir()
    shutil.copytree(base, tmp_path / "base")
    assert_is_a_mistake(tinyllama("train", *TINY, "--out", "new", "--from", name), message)


def test_a_base_with_absurdly_many_layers_is_refused_before_they_are_made(tinyllama, base, tmp_path, monkeypatch):
    copy = shutil.copytree(base, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**9}), encoding="utf-8")
    monkeypatch.setattr("tinyllama.models.lora.LlamaNetwork", None)     # to make one would take all memory
    assert_is_a_mistake(tinyllama("train", *TINY, "--out", "new", "--from", "copy", "--lora-rank", 2),
                        "expected the number of layers in the configuration to be that of the weights")


def test_the_name_of_an_installed_package_stands_for_its_model(tinyllama, monkeypatch, tmp_path):
    received = []
    monkeypatch.setattr(run_module, "run_training", received.append)
    monkeypatch.setattr("importlib.metadata.files", lambda name: [SimpleNamespace(
        suffix=".gguf", locate=lambda: tmp_path / f"{name}.gguf")])
    assert tinyllama("train", *TINY, "--from", "some-model").code == 0
    assert received[0].from_model == tmp_path / "some-model.gguf"
