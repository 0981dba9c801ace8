"""Every family of Hugging Face, made and read by transformers: what it saves we load, and the other way round."""

import json

import families
import llama_cases
import numpy as np
import pytest

import tinyllama as tl
from tinyllama.formats.architectures import family_of

pytest.importorskip("torch", reason="torch is not installed, so nothing else can read or write a checkpoint.")
pytest.importorskip("transformers", minversion="5.0",
                    reason="transformers 5 is not installed, so nothing else can read or write a checkpoint.")

import float64_transformers
import torch
from transformers import AutoModelForCausalLM

every_case = pytest.mark.parametrize("case", families.CASES)


def their_logits(model, case):
    with torch.no_grad():
        return model(torch.from_numpy(families.batch(case)[0])).logits.to(torch.float64).numpy()


def relative(logits, expected):
    return np.max(np.abs(logits - expected)) / np.max(np.abs(expected))


@pytest.mark.parametrize("stored", families.DTYPES)
@every_case
def test_theirs_here(tmp_path, case, stored):
    with float64_transformers.in_float64():
        theirs = float64_transformers.new_family(case)
        for parameter in theirs.parameters():           # not `theirs.to`, which rounds the frequencies as well
            parameter.data = parameter.data.to(getattr(torch, stored))
        theirs.save_pretrained(tmp_path, max_shard_size="6kB")
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
        for parameter in theirs.parameters():
            parameter.data = parameter.data.to(torch.float64)
        expected = float64_transformers.run_family(theirs, case)
    model = tl.load(tmp_path, dtype="float64", backend="numpy")
    llama_cases.assert_close(families.run(model, case), families.split_fused(expected, model.config), logits=1e-9,
                             gradients=1e-8)
    model = tl.load(tmp_path)
    assert relative(model.logits(families.batch(case)[0]), expected["logits"]) < 2e-4


@every_case
def test_ours_there_with_identical_logits(tmp_path, case):
    with float64_transformers.in_float64():
        float64_transformers.new_family(case).save_pretrained(tmp_path / "theirs")
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
        tl.save(tl.load(tmp_path / "theirs", dtype="float64"), tmp_path / "ours")
        again, report = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
        assert not any(report.values())
        assert again.dtype == torch.float64
        logits, expected = their_logits(again, case), their_logits(theirs, case)
    if again.config.model_type == theirs.config.model_type:
        np.testing.assert_array_equal(logits, expected)
    else:                                               # Phi-3's fused matrices are written as their parts
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@every_case
def test_ours_there_in_a_smaller_dtype_and_in_several_files(tmp_path, case, dtype):
    model = families.load(case, tmp_path / "theirs", dtype="float32")
    tl.save(model, tmp_path / "ours", dtype, max_shard_bytes=3000)
    assert len(list((tmp_path / "ours").glob("model-*.safetensors"))) > 2
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert theirs.dtype == getattr(torch, dtype)
    again = tl.load(tmp_path / "ours")
    assert relative(their_logits(theirs.to(torch.float32), case), again.logits(families.batch(case)[0])) < 1e-5


@every_case
def test_the_spelling_of_version_four(tmp_path, case):
    # rope_theta and rope_scaling instead of rope_parameters, no layer_types, and the older key for the dtype.
    directory = families.write(case, tmp_path)
    newer = tl.load(directory, dtype="float64")
    settings = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    rotation = settings.pop("rope_parameters")
    settings["rope_theta"] = rotation.pop("rope_theta")
    kind = rotation.pop("rope_type")
    settings["rope_scaling"] = None if kind == "default" else {"type": kind, **rotation}
    settings.pop("layer_types", None)
    settings["torch_dtype"] = settings.pop("dtype")
    (directory / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    with float64_transformers.in_float64():
        theirs = AutoModelForCausalLM.from_pretrained(directory)
        expected = their_logits(theirs, case)
    older = tl.load(directory, dtype="float64")
    for model in (newer, older):
        assert relative(model.logits(families.batch(case)[0]), expected) < 1e-9


@pytest.mark.parametrize("changes, kind", [
    ({}, "llama"), ({"mlp_bias": True, "attention_bias": True}, "llama"), ({"sliding_window": 4}, "mistral"),
    ({"num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 6}, "mistral"),
    ({"attention_bias": True, "attention_output_bias": False, "sliding_window": 4}, "qwen2"),
    ({"qk_norm": True}, "qwen3"), ({"qk_norm": True, "attention_bias": True, "sliding_window": 4}, "qwen3"),
    ({"rope_scaling": llama_cases.LLAMA3, "max_position_embeddings": 500}, "llama"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 3.0}, "qk_norm": True, "tie_word_embeddings": True}, "qwen3"),
])
def test_a_model_that_is_made_here_is_read_there(tmp_path, changes, kind):
    sizes = {name: value for name, value in families.SIZES.items() if name != "pad_token_id"}
    config = tl.LlamaConfig(**sizes | {"head_dim": 8, **changes})
    assert family_of(config) == kind
    model = tl.Llama(config, dtype="float64", seed=3)
    for name, parameter in model.parameters.items():
        parameter[...] = families.weights("made here", name, parameter.shape)
    tl.save(model, tmp_path)
    with float64_transformers.in_float64():
        theirs, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(report.values())
        assert theirs.config.model_type == kind
        expected = their_logits(theirs, "made here")
    assert relative(model.logits(families.batch("made here")[0]), expected) < 1e-12
