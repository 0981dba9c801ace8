"""What we save transformers loads, and what it saves we load."""

import json

import llama_cases as cases
import numpy as np
import pytest

import tinyllama as tl

pytest.importorskip("torch", reason="torch is not installed, so nothing else can read or write a checkpoint.")
pytest.importorskip("transformers", minversion="5.0",
                    reason="transformers 5 is not installed, so nothing else can read or write a checkpoint.")

import float64_transformers
import torch
from transformers import LlamaConfig, LlamaForCausalLM


def their_logits(model, ids):
    with torch.no_grad():
        return model(torch.from_numpy(ids)).logits.numpy()


@pytest.mark.parametrize("case", cases.CASES)
def test_ours_there(tmp_path, case):
    ids, _ = cases.batch(case)
    model = cases.ours(case, "float32")
    tl.save(model, tmp_path / "float32")
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "float32")
    assert theirs.dtype == torch.float32
    np.testing.assert_allclose(their_logits(theirs, ids), model.logits(ids), rtol=0, atol=1e-4)

    model = cases.ours(case, "float64")
    tl.save(model, tmp_path / "float64")
    with float64_transformers.in_float64():
        theirs = LlamaForCausalLM.from_pretrained(tmp_path / "float64")
        np.testing.assert_allclose(their_logits(theirs, ids), model.logits(ids), rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", cases.CASES)
def test_theirs_here(tmp_path, case):
    ids, _ = cases.batch(case)
    with float64_transformers.in_float64():
        theirs = float64_transformers.theirs(case)
        theirs.save_pretrained(tmp_path)
        model = tl.load(tmp_path, dtype="float64")
        np.testing.assert_allclose(model.logits(ids), their_logits(theirs, ids), rtol=0, atol=1e-9)
    assert model.config == cases.config(case)


def test_theirs_here_in_several_files(tmp_path):
    theirs = float64_transformers.theirs("biases")
    theirs.save_pretrained(tmp_path, max_shard_size="4kB")
    assert not (tmp_path / "model.safetensors").exists()
    model = tl.load(tmp_path, dtype="float64")
    assert all(np.array_equal(model.parameters[name], weight.detach().numpy())
               for name, weight in theirs.named_parameters())


@pytest.mark.parametrize("key", ["rope_type", "type"])
def test_the_older_spelling_of_a_rotation(tmp_path, key):
    # As version 4 wrote it. A config that is only half understood would give other logits, not an error.
    case = "multi-query-llama3"
    theirs = float64_transformers.theirs(case)
    theirs.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    rotation = settings.pop("rope_parameters")
    settings["rope_theta"] = rotation.pop("rope_theta")
    settings["rope_scaling"] = {key: rotation.pop("rope_type"), **rotation}
    (tmp_path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    ids, _ = cases.batch(case)
    np.testing.assert_allclose(tl.load(tmp_path, dtype="float64").logits(ids), their_logits(theirs, ids), atol=1e-4)


def test_their_defaults(tmp_path):
    config = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=20, num_hidden_layers=1,
                         num_attention_heads=2)
    theirs = LlamaForCausalLM(config)
    theirs.save_pretrained(tmp_path)
    model = tl.load(tmp_path)
    assert (model.config.rms_norm_eps, model.config.eos_token_id) == (config.rms_norm_eps, config.eos_token_id)
    ids = np.arange(32).reshape(2, 16)
    np.testing.assert_allclose(model.logits(ids), their_logits(theirs, ids), atol=1e-6)
