"""Every family of Hugging Face against what transformers computed for the golden file: runs everywhere."""

import contextlib

import families
import llama_cases
import numpy as np
import pytest

import tinyllama as tl
from tinyllama.formats.architectures import family_of
from tinyllama.nn.attention import Attention
from tinyllama.nn.positions import RotaryTable

every_case = pytest.mark.parametrize("case", families.CASES)


@pytest.fixture(scope="module")
def golden():
    with np.load(families.GOLDEN) as file:
        return dict(file)


def expected(golden, case):
    return {name.removeprefix(f"{case}/"): value for name, value in golden.items() if name.startswith(f"{case}/")}


@pytest.mark.parametrize("backend", tl.available_backends())
@every_case
def test_logits_loss_and_gradients_in_float64(golden, tmp_path, case, backend):
    results = families.run(families.load(case, tmp_path, backend=backend), case)
    llama_cases.assert_close(families.summary(case, results), expected(golden, case), logits=1e-9, gradients=1e-8)


@pytest.mark.parametrize("stored, tolerance", [("float64", 2e-4), ("float32", 2e-4), ("float16", 2e-2),
                                               ("bfloat16", 1e-1)])
@pytest.mark.parametrize("backend", tl.available_backends())
@every_case
def test_logits_in_float32_from_files_of_every_dtype(golden, tmp_path, case, backend, stored, tolerance):
    model = tl.load(families.write(case, tmp_path, stored), backend=backend)
    logits, whole = model.logits(families.batch(case)[0]), golden[f"{case}/logits"]
    assert logits.dtype == np.float32
    assert np.max(np.abs(logits - whole)) <= tolerance * np.max(np.abs(whole))


@every_case
@pytest.mark.parametrize("stored", families.DTYPES)
def test_the_weights_are_those_of_the_files(tmp_path, case, stored):
    model = tl.load(families.write(case, tmp_path, stored), dtype="float64")
    held = families.split_fused(families.tensors(case, stored), model.config)
    assert set(held) == set(model.parameters)
    for name, array in held.items():
        np.testing.assert_array_equal(model.parameters[name], array.astype(np.float64), err_msg=name)


@every_case
@pytest.mark.parametrize("dtype", [None, "float64", "float32", "float16", "bfloat16"])
def test_a_loaded_model_is_saved_and_loaded_again(tmp_path, case, dtype):
    model = families.load(case, tmp_path / "theirs")
    tl.save(model, tmp_path / "ours", dtype)
    again = tl.load(tmp_path / "ours", dtype="float64")
    assert again.config == model.config
    for name, array in model.parameters.items():
        held = array.astype(families.DTYPES[dtype or "float64"]).astype(np.float64)
        np.testing.assert_array_equal(again.parameters[name], held, err_msg=name)
    kinds = {"phi3": "mistral" if model.config.sliding_window else "llama",
             "mistral": "mistral"}       # with 5 heads in 24 features, which transformers' Llama would not take
    kind, _ = families.CASES[case]
    assert family_of(again.config) == kinds.get(kind, kind)


def test_every_case_is_as_it_was_made(golden):
    assert {name.partition("/")[0] for name in golden} == set(families.CASES)
    for case, (kind, settings) in families.CASES.items():
        written = families.description(case)["config"]
        assert written["model_type"] == kind
        assert all(written[name] == value for name, value in settings.items()
                   if name in written and name not in ("sliding_window", "rope_parameters")), case
    assert families.GOLDEN.stat().st_size < 300_000


# ---- what a reader might get wrong changes the logits by far more than the tolerance

@contextlib.contextmanager
def without_norms():
    original = Attention.forward

    def forward(self, x, context):
        kept = self.q_norm, self.k_norm
        self.q_norm = self.k_norm = None
        try:
            return original(self, x, context)
        finally:
            self.q_norm, self.k_norm = kept

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Attention, "forward", forward)
        yield


@contextlib.contextmanager
def norms_after_the_rotation():
    original = Attention.forward

    def forward(self, x, context):
        ops, kept, norms = self.ops, (self.q_norm, self.k_norm), iter((self.q_norm, self.k_norm))
        self.q_norm = self.k_norm = None
        self.ops = ops.with_ops(rope_forward=lambda z, **settings: (
            next(norms).forward(ops.rope_forward(z, **settings)[0])[0], None))
        try:
            return original(self, x, context)
        finally:
            self.ops, (self.q_norm, self.k_norm) = ops, kept

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Attention, "forward", forward)
        yield


@contextlib.contextmanager
def interleaved_pairs():
    original = Attention.forward

    def forward(self, x, context):
        ops = self.ops
        self.ops = ops.with_ops(rope_forward=lambda z, **settings: ops.rope_forward(z, interleaved=True, **settings))
        try:
            return original(self, x, context)
        finally:
            self.ops = ops

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Attention, "forward", forward)
        yield


@contextlib.contextmanager
def unscaled():
    original = RotaryTable.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RotaryTable, "__init__",
                      lambda self, *args, **settings: original(self, *args, **settings | {"scaling": None}))
        yield


def no_bias(model):
    for name, parameter in model.parameters.items():
        if name.endswith("v_proj.bias"):
            parameter[...] = 0


MISTAKES = {
    "no norms of q and k": ("qwen3", without_norms, {}, None),
    "norms after the rotation": ("qwen3", norms_after_the_rotation, {}, None),
    "a window too long by one": ("mistral", contextlib.nullcontext, {"sliding_window": 5}, None),
    "a window too short by one": ("qwen2 with a window", contextlib.nullcontext, {"sliding_window": 2}, None),
    "no window": ("phi3", contextlib.nullcontext, {"sliding_window": None}, None),
    "no bias of v": ("qwen2", contextlib.nullcontext, {}, no_bias),
    "the other pairing": ("llama", interleaved_pairs, {}, None),
    "no scaling": ("llama 3.1", unscaled, {}, None),
    "another base": ("smollm2", contextlib.nullcontext, {"rope_parameters": {"rope_theta": 10000.0}}, None),
    "another eps": ("llama", contextlib.nullcontext, {"rms_norm_eps": 1e-6}, None),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_shows_in_the_logits(golden, tmp_path, mistake):
    case, context, changes, change = MISTAKES[mistake]
    with context():
        model = families.load(case, tmp_path, **changes)
        if change is not None:
            change(model)
        logits, whole = model.logits(families.batch(case)[0]), golden[f"{case}/logits"]
    assert np.max(np.abs(logits - whole)) > 1e-7 * np.max(np.abs(whole))
