"""LoRA adapters on disk: what is written is read, PEFT reads ours and we read PEFT's, all else is refused by name."""

import json
import shutil
import warnings
from pathlib import Path

import llama_cases as cases
import ml_dtypes
import models_under_test as mut
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tinyllama as tl
from tinyllama.formats import peft as adapters

GOLDEN = Path(__file__).parents[1] / "golden" / "adapter"
GOLDEN_CASE = "grouped-tied"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ALL = ("q_proj", "v_proj", "up_proj", "down_proj")


@pytest.fixture
def base(tmp_path):
    """A saved model."""
    tl.save(mut.tiny_model(), tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def model(base):
    """The saved model, with updates far from zero."""
    return adapted(base, ALL)


@pytest.fixture
def adapter(model, base, tmp_path):
    """The updates of `model`, saved."""
    tl.save_adapter(model, tmp_path / "adapter", base=base)
    return tmp_path / "adapter"


def adapted(base, targets, rank=3, alpha=5):
    model = tl.load(base, backend="numpy", dtype="float64", lora=tl.LoraSettings(rank, alpha, targets))
    mut.randomize({name: array for name, array in model.parameters.items() if ".lora_" in name})
    return model


def close(received, expected, tolerance=1e-12):
    np.testing.assert_allclose(received.logits(mut.IDS), expected.logits(mut.IDS), rtol=0, atol=tolerance)


def edit(adapter, **changes):
    document = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    (adapter / CONFIG).write_text(json.dumps(document | changes), encoding="utf-8")


def edit_tensors(adapter, change):
    """change({name: array}) -> what is written in their place."""
    save_file(change(load_file(adapter / WEIGHTS)), adapter / WEIGHTS)


# ---- there and back

def test_loading_with_lora_is_adding_to_what_was_loaded(base):
    model = tl.load(base, dtype="float64", lora=tl.LoraSettings(seed=4))
    same = tl.add_lora(tl.load(base, dtype="float64"), tl.LoraSettings(seed=4))
    assert model.lora == tl.LoraSettings(seed=4)
    assert list(model.parameters) == list(same.parameters)
    for name, array in model.parameters.items():
        np.testing.assert_array_equal(array, same.parameters[name])


@pytest.mark.parametrize("targets", [ALL, "all-linear", ("lm_head", "q_proj")], ids=str)
def test_an_adapter_comes_back_bit_for_bit(targets, base, tmp_path):
    model = adapted(base, targets)
    tl.save_adapter(model, tmp_path / "a" / "new" / "folder", base=base)
    assert sorted(path.name for path in (tmp_path / "a" / "new" / "folder").iterdir()) == [CONFIG, WEIGHTS]
    for start in (base, tl.load(base, backend="numpy", dtype="float64")):
        again = tl.load_adapter(start, tmp_path / "a" / "new" / "folder", backend="numpy", dtype="float64")
        assert (again.lora.rank, again.lora.alpha) == (3, 5)
        assert list(again.parameters) == list(model.parameters)
        for name, array in model.parameters.items():
            np.testing.assert_array_equal(again.parameters[name], array, err_msg=name)
        assert list(again.loss_and_grads(mut.IDS, mut.TARGETS)[1]) == [n for n in model.parameters if ".lora_" in n]


def test_the_directory_of_an_adapter_is_the_merged_model(adapter, model, base):
    merged = tl.load(adapter, backend="numpy", dtype="float64")
    assert merged.lora is None
    close(merged, model)
    assert np.abs(merged.logits(mut.IDS) - tl.load(base, dtype="float64").logits(mut.IDS)).max() > 0.1
    small = tl.load(adapter, backend="numpy", quantization="int8")
    np.testing.assert_allclose(small.logits(mut.IDS), merged.logits(mut.IDS), rtol=0, atol=1.0)


def test_an_adapter_may_belong_to_another(adapter, model, tmp_path):
    second = adapted(adapter, ("o_proj", "q_proj"), rank=2)
    tl.save_adapter(second, tmp_path / "second", base=adapter)
    close(tl.load(tmp_path / "second", backend="numpy", dtype="float64"), second)
    assert np.abs(second.logits(mut.IDS) - model.logits(mut.IDS)).max() > 0.1


def test_merging_row_by_row_is_merging_at_once(adapter, model):
    checkpoint = adapters.read_checkpoint(adapter)
    merged = tl.merge_lora(model)
    for name in ("model.layers.1.self_attn.v_proj.weight", "model.layers.0.mlp.down_proj.weight"):
        tensor = checkpoint.tensors[name]
        for rows in (slice(None), slice(2, 5), np.array([4, 0, 4])):
            np.testing.assert_allclose(tensor.read(rows), merged.parameters[name][rows], rtol=0, atol=1e-12)
        assert tensor.shape == merged.parameters[name].shape
        assert tensor.quantized() is None


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "float64"])
def test_other_dtypes_are_read(dtype, adapter, model, base):
    edit_tensors(adapter, lambda tensors: {name: array.astype(dtype) for name, array in tensors.items()})
    again = tl.load_adapter(base, adapter, backend="numpy", dtype="float64")
    for name, array in model.parameters.items():
        expected = array.astype(dtype).astype("float64") if ".lora_" in name else array
        np.testing.assert_array_equal(again.parameters[name], expected)


def test_saving_again_replaces_and_leaves_other_files(adapter, base, model):
    (adapter / "README.md").write_text("mine", encoding="utf-8")
    other = adapted(base, ("k_proj",), rank=1)
    tl.save_adapter(other, adapter, base=base)
    assert sorted(path.name for path in adapter.iterdir()) == ["README.md", CONFIG, WEIGHTS]
    close(tl.load(adapter, backend="numpy", dtype="float64"), other)


def test_a_directory_holds_a_model_or_an_adapter(adapter, base, model):
    before = {path: path.read_bytes() for directory in (adapter, base) for path in directory.iterdir()}
    with pytest.raises(ValueError, match="base: expected a directory without a model to save the adapter in, got one "
                                         r"with config\.json"):
        tl.save_adapter(model, base)
    with pytest.raises(ValueError, match="adapter: expected a directory without an adapter to save the model in, got "
                                         r"one with adapter_config\.json"):
        tl.save(tl.merge_lora(model), adapter)
    assert {path: path.read_bytes() for directory in (adapter, base) for path in directory.iterdir()} == before
    for name in (CONFIG, WEIGHTS):
        shutil.copy(adapter / name, base)
    with pytest.raises(ValueError, match=r"got both, config\.json and adapter_config\.json; move one away: "
                                         r"tl\.load_adapter\(MODEL, ADAPTER\)"):
        tl.load(base)


def test_a_base_with_absurdly_many_layers_is_refused_before_they_are_made(adapter, base, monkeypatch):
    document = json.loads((base / "config.json").read_text(encoding="utf-8"))
    (base / "config.json").write_text(json.dumps(document | {"num_hidden_layers": 10**9}), encoding="utf-8")
    monkeypatch.setattr(adapters, "LlamaNetwork", None)     # to make one would take all memory
    message = "expected the number of layers in the configuration to be that of the weights"
    with pytest.raises(ValueError, match=message):
        tl.load_adapter(base, adapter)
    with pytest.raises(ValueError, match=message):
        tl.load(adapter)


# ---- PEFT

def test_the_golden_adapter_of_peft():
    """For where PEFT is absent: its files, and the logits of transformers with them."""
    model = tl.load_adapter(cases.ours(GOLDEN_CASE), GOLDEN)
    ids, _ = cases.batch(GOLDEN_CASE)
    expected = np.load(GOLDEN / "logits.npy")
    np.testing.assert_allclose(model.logits(ids), expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(tl.merge_lora(model).logits(ids), expected, rtol=0, atol=1e-9)
    assert np.abs(cases.ours(GOLDEN_CASE).logits(ids) - expected).max() > 0.1


@pytest.fixture
def library():
    """PEFT, over a transformers that computes in float64 throughout."""
    for name in ("torch", "transformers"):
        pytest.importorskip(name, reason=f"{name} is not installed, so nothing else can read an adapter.")
    library = pytest.importorskip("peft", reason="peft is not installed, so nothing else can read an adapter.")
    import float64_transformers
    with float64_transformers.in_float64(), warnings.catch_warnings():
        warnings.simplefilter("ignore")         # theirs, about one another
        yield library


def theirs(case):
    import float64_transformers
    return float64_transformers.theirs(case)


def ours_with_updates(case, targets):
    model = tl.add_lora(cases.ours(case), tl.LoraSettings(3, 6, targets))
    mut.randomize({name: array for name, array in model.parameters.items() if ".lora_" in name})
    return model


def logits_of(model, ids):
    import torch
    with torch.no_grad():
        return model(torch.from_numpy(ids)).logits.numpy()


CASES = [("grouped-tied", "all-linear"), ("multi-head", ("q_proj", "v_proj")),
         ("biases", ("k_proj", "o_proj", "gate_proj")), ("multi-head", ("lm_head", "up_proj"))]


@pytest.mark.parametrize(("case", "targets"), CASES, ids=str)
def test_peft_reads_ours_with_the_same_logits_and_gradients(case, targets, library, tmp_path):
    import torch
    model, (ids, targets_of_the_batch) = ours_with_updates(case, targets), cases.batch(case)
    tl.save_adapter(model, tmp_path, base="somewhere/else")
    its = library.PeftModel.from_pretrained(theirs(case), tmp_path, is_trainable=True, autocast_adapter_dtype=False)
    np.testing.assert_allclose(logits_of(its, ids), model.logits(ids), rtol=0, atol=1e-10)

    _, grads = model.loss_and_grads(ids, targets_of_the_batch)
    logits = its(torch.from_numpy(ids)).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets_of_the_batch).flatten()).backward()
    expected = {name.removeprefix("base_model.model.").replace(".default", ""): parameter.grad.numpy()
                for name, parameter in its.named_parameters() if parameter.requires_grad}
    assert set(grads) == set(expected)
    for name, gradient in grads.items():
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(gradient, expected[name], rtol=0, atol=1e-10 * scale, err_msg=name)


@pytest.mark.parametrize(("case", "targets"), CASES, ids=str)
def test_we_read_what_peft_saved(case, targets, library, tmp_path):
    import torch
    targets = targets if isinstance(targets, str) else list(targets)
    settings = library.LoraConfig(r=2, lora_alpha=5, target_modules=targets, task_type="CAUSAL_LM", lora_dropout=0.1,
                                  init_lora_weights=False)
    its = library.get_peft_model(theirs(case), settings, autocast_adapter_dtype=False).eval()
    its.save_pretrained(tmp_path, save_embedding_layers=False)      # or the head of the base would lie there as well
    model = tl.load_adapter(cases.ours(case), tmp_path)
    ids, _ = cases.batch(case)
    assert next(its.parameters()).dtype == torch.float64
    np.testing.assert_allclose(model.logits(ids), logits_of(its, ids), rtol=0, atol=1e-9)
    assert np.abs(model.logits(ids) - cases.ours(case).logits(ids)).max() > 1e-3


@pytest.mark.parametrize(("settings", "named"), [
    ({"use_rslora": True}, "use_rslora"), ({"use_dora": True}, "use_dora"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save"), ({"bias": "all"}, "bias"),
    ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"), ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern"),
    ({"lora_bias": True}, "lora_bias"), ({"init_lora_weights": "pissa"}, "init_lora_weights"),
    ({"trainable_token_indices": [1]}, "trainable_token_indices"),
    ({"layers_to_transform": [1]}, "an update of the same layers in every block"),
    ({"target_modules": ["embed_tokens"]}, "target_modules"),
])
def test_what_peft_saved_and_computes_something_else_is_refused_by_name(settings, named, library, tmp_path):
    chosen = {"r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", **settings}
    its = library.get_peft_model(theirs("multi-head").float(), library.LoraConfig(**chosen))
    its.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=named):
        tl.load_adapter(cases.ours("multi-head"), tmp_path)


# ---- what is refused

def refused(base, adapter, message, error=ValueError):
    for read in (lambda: tl.load_adapter(base, adapter), lambda: tl.load_adapter(tl.load(base), adapter),
                 lambda: tl.load(adapter)):
        with pytest.raises(error, match=message):
            read()


@pytest.mark.parametrize(("changes", "message"), [
    ({"peft_type": "IA3"}, r"adapter_config\.json: expected peft_type 'LORA', got 'IA3'"),
    ({"use_rslora": True}, r"expected use_rslora not to be set, got True: an adapter that computes otherwise"),
    ({"use_dora": True}, "expected use_dora not to be set, got True"),
    ({"modules_to_save": ["lm_head"]}, r"expected modules_to_save not to be set, got \['lm_head'\]"),
    ({"bias": "lora_only"}, "expected bias to be None or 'none', got 'lora_only'"),
    ({"rank_pattern": {"q_proj": 2}}, "expected rank_pattern not to be set, got"),
    ({"alpha_pattern": {"q_proj": 2}}, "expected alpha_pattern not to be set, got"),
    ({"fan_in_fan_out": True}, "expected fan_in_fan_out not to be set"),
    ({"init_lora_weights": "olora"}, "expected init_lora_weights to be True or False or .*, got 'olora'"),
    ({"task_type": "SEQ_CLS"}, "expected task_type to be None or 'CAUSAL_LM', got 'SEQ_CLS'"),
    ({"what_comes_next_year": 1}, "expected what_comes_next_year not to be set, got 1"),
    ({"r": 0}, r"adapter_config\.json: rank: expected a whole number of at least 1, got 0"),
    ({"r": None}, "rank: expected a whole number of at least 1, got None"),
    ({"r": 4}, r"q_proj\.lora_A\.weight: expected the shape \(4, 16\), got \(3, 16\)"),
    ({"r": 10**15}, r"adapter: rank: expected at most \d+, the smaller side of .*, got 1000000000000000"),
    ({"lora_alpha": -1}, "alpha: expected a number above 0, got -1"), ({"lora_alpha": "x"}, "alpha: expected a number"),
    ({"base_model_name_or_path": 3}, "expected base_model_name_or_path to be a text, got 3"),
])
def test_settings_that_are_not_ours_are_refused_by_name(changes, message, base, adapter):
    edit(adapter, **changes)
    refused(base, adapter, message)


NAME = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"


@pytest.mark.parametrize(("change", "message"), [
    (lambda t: {n: a for n, a in t.items() if n != NAME}, "up_proj.lora_A.weight: expected the shape .*, got no such"),
    (lambda t: {n: a for n, a in t.items() if "layers.1" not in n}, "got no such tensor; .*; and 5 more"),
    (lambda t: t | {NAME: t[NAME][:, :-1].copy()}, r"expected the shape \(3, 16\), got \(3, 15\)"),
    (lambda t: t | {NAME: t[NAME].T.copy()}, r"expected the shape \(3, 16\), got \(16, 3\)"),
    (lambda t: t | {NAME: t[NAME].astype("int8")}, "expected one of F64, F32, F16, BF16, got I8"),
    (lambda t: t | {"base_model.model.model.norm.weight": np.ones(16)}, "norm.weight: expected no such tensor"),
    (lambda t: {n.replace("up_proj", "c_fc"): a for n, a in t.items()}, "target_modules: expected names among .*c_fc"),
    (lambda t: {"x": np.ones(3)}, "target_modules: expected at least one name, got none"),
])
def test_tensors_that_do_not_fit_are_refused(change, message, base, adapter):
    edit_tensors(adapter, change)
    refused(base, adapter, message)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"3"])
def test_a_damaged_configuration_is_refused(content, base, adapter):
    (adapter / CONFIG).write_bytes(content)
    refused(base, adapter, r"adapter_config\.json: expected")


def test_damaged_weights_are_refused_wherever_they_end(base, adapter):
    whole = (adapter / WEIGHTS).read_bytes()
    for length in (0, 7, 8, 100, len(whole) - 1):
        (adapter / WEIGHTS).write_bytes(whole[:length])
        refused(base, adapter, r"adapter_model\.safetensors: expected safetensors, got")


def test_a_file_that_is_missing_is_named(base, adapter, tmp_path):
    (adapter / WEIGHTS).unlink()
    refused(base, adapter, r"adapter_model\.safetensors: expected the weights of an adapter, .* without them$",
            FileNotFoundError)
    (adapter / "adapter_model.bin").write_bytes(b"pickle")
    refused(base, adapter, r"adapter_model\.bin is a pickle, which could run any code", FileNotFoundError)
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json: expected the configuration of an adapter"):
        tl.load_adapter(base, tmp_path)


def test_an_adapter_whose_base_is_not_there_says_so(base, adapter):
    edit(adapter, base_model_name_or_path="meta-llama/Llama-3.2-1B")
    with pytest.raises(FileNotFoundError, match=r"got 'meta-llama/Llama-3\.2-1B', where nothing is; tl\.load_adapter"):
        tl.load(adapter)
    edit(adapter, base_model_name_or_path=None)
    with pytest.raises(ValueError, match="expected base_model_name_or_path, the model that the adapter belongs to"):
        tl.load(adapter)
    assert tl.load_adapter(base, adapter).lora.rank == 3


def test_an_adapter_that_belongs_to_itself_is_refused(adapter, tmp_path):
    edit(adapter, base_model_name_or_path=str(adapter))
    with pytest.raises(ValueError, match="expected an adapter of another model, got one that belongs to itself"):
        tl.load(adapter)
    other = shutil.copytree(adapter, tmp_path / "other")
    edit(adapter, base_model_name_or_path=str(other))
    with pytest.raises(ValueError, match="belongs to itself"):
        tl.load(adapter)


@pytest.mark.parametrize(("use", "error", "message"), [
    (lambda model, path: tl.save_adapter(tl.merge_lora(model), path), ValueError, "model: expected one with LoRA's"),
    (lambda model, path: tl.save(model, path), ValueError, "model: expected one without LoRA's updates"),
    (lambda model, path: tl.save_adapter(model, __file__), ValueError, "expected a directory to save the adapter in"),
])
def test_what_does_not_go_together_is_refused(use, error, message, model, tmp_path):
    with pytest.raises(error, match=message):
        use(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_model_with_updates_gets_no_others(model, adapter):
    with pytest.raises(ValueError, match="model: expected one without LoRA's updates, got one with them"):
        tl.load_adapter(model, adapter)


def test_updates_are_not_read_into_a_model_of_other_settings(base, adapter):
    with pytest.raises(ValueError, match="expected an adapter of rank 3 and alpha 6, got rank 3 and alpha 5"):
        adapters.read_updates(adapted(base, ALL, alpha=6), adapter)


def test_lora_and_quantisation_exclude_one_another(base):
    with pytest.raises(ValueError, match="lora: expected none with quantization='int8'"):
        tl.load(base, lora=tl.LoraSettings(), quantization="int8")
