"""The fused step of decoding against the layers: the same logits for every LLaMA that it covers, and the same cache."""

import dataclasses
import re
import subprocess
import sys
import threading
import time

import models_under_test as mut
import numpy as np
import pytest

pytest.importorskip("numba", reason="Numba is not installed.")

import numba

import tinyllama as tl
from tinyllama.backends import load_backend
from tinyllama.backends.cpu import compiling, decoding, team
from tinyllama.backends.cpu.packed_weight import ROWS, PackedWeight
from tinyllama.backends.cpu.team import run_as_team
from tinyllama.backends.threads import run_in_threads
from tinyllama.generation import ContextLimitWarning
from tinyllama.models import decoding as models_decoding
from tinyllama.models.decoding import new_step
from tinyllama.models.quantization import OnDemand, QuantizedLlama
from tinyllama.ops.quantized_linear import StackedWeight, quantize_groups, quantize_rows

BACKEND = load_backend("numba")
quantized_linear = sys.modules["tinyllama.backends.cpu.quantized_linear"]
CONTEXT = 24
TEXT = [3, 1, 3, 7, 3, 12, 0, 5, 5, 2, 1, 5, 2, 9, 1, 4, 3, 4, 1, 0, 11]
COVERED = {
    "grouped queries": {}, "a key for each query": {"num_key_value_heads": 4},
    "one key for all queries, wide heads": {"num_key_value_heads": 1, "head_dim": 6},
    "heads of 8": {"head_dim": 8}, "heads of 64": {"head_dim": 64}, "heads of 18": {"head_dim": 18},
    "a window": {"sliding_window": 3}, "no rotation": {"positions": "none"},
    "odd heads, no rotation": {"positions": "none", "head_dim": 5},
    "scaled rotation": {"rope_scaling": mut.LLAMA3}, "a large eps": {"rms_norm_eps": 0.3},
    "biases": {"attention_bias": True, "mlp_bias": True}, "tied": {"tie_word_embeddings": True},
    "biases of q, k and v alone": {"attention_bias": True, "attention_output_bias": False},
    "norms of q and k": {"qk_norm": True, "head_dim": 6, "rms_norm_eps": 0.1},
    "shared layers": {"num_hidden_layers": 3, "num_unique_layers": 2},
    "more heads than features": {"hidden_size": 6, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 2},
    "one of each": {"num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1},
}
NOT_COVERED = {
    "layernorm": {"norm": "layernorm"}, "gelu": {"mlp": "gelu"}, "learned positions": {"positions": "learned"},
    "sinusoidal positions": {"positions": "sinusoidal"},
}
every_kind = pytest.mark.parametrize("kind", COVERED)
WEIGHTS = {
    "float": None, "int8": {}, "int8 in groups": {"bits": 8, "group_size": 2}, "int4": {"bits": 4, "group_size": 2},
}
KINDS_OF_WEIGHTS = pytest.mark.parametrize("weights", WEIGHTS)
compiled_only = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="A team, or a signature, is compiled code.")
DTYPES = pytest.mark.parametrize("dtype", ["float64", "float32"])


def make(kind="grouped queries", weights="float", backend=BACKEND, **settings):
    changes = {"max_position_embeddings": CONTEXT} | COVERED.get(kind, NOT_COVERED.get(kind)) | settings
    model = mut.tiny_model(backend=backend, workers=None, **changes)
    return model if weights == "float" else tl.quantize(model, **WEIGHTS[weights])


def one_by_one(model, text=TEXT, prompt=0):
    """The logits after each token of a text, the first `prompt` of them in one piece."""
    step, logits = new_step(model, 1, len(text)), []
    if prompt:
        logits.append(step(np.array([text[:prompt]]), np.array([prompt]))[0])
    for token in text[prompt:]:
        logits.append(step(np.array([[token]]), np.array([1]))[0])
    return np.array(logits)                                                 # (T, vocab_size)


def tolerance(model):
    """What rounding may do, relative to the largest logit: every sum on the way of a logit, in the worst order."""
    config = model.config
    terms = 2 * config.hidden_size + config.head_dim * (1 + config.num_attention_heads) + len(TEXT)
    terms += 3 * config.intermediate_size
    return 1e-12 if model.dtype == np.float64 else 2.0**-24 * (config.num_hidden_layers + 1) * terms


def assert_close(model, received, expected):
    assert received.dtype == model.dtype
    np.testing.assert_allclose(received, expected, rtol=0, atol=tolerance(model) * np.max(np.abs(expected)))


@pytest.fixture
def steps(monkeypatch):
    """The (token, position) of every fused step."""
    taken = []

    def noting(**weights):
        step = decoding.new_token_step(**weights)

        def noted(token, position):
            taken.append((token, position))
            return step(token, position)
        return noted

    monkeypatch.setattr(BACKEND, "new_token_step", noting)
    return taken


@pytest.fixture
def team_of(monkeypatch):
    """team_of(3): let the next models be decoded by three threads, however small they are and few the cores."""
    if numba.config.DISABLE_JIT:
        pytest.skip("A team of several is compiled code.")

    def choose(size):
        monkeypatch.setattr(decoding, "cores", lambda: size)
        monkeypatch.setattr(decoding, "BYTES_OF_A_MEMBER", 1)
    return choose


@pytest.fixture
def plain_python(monkeypatch):
    """The fused step without a compiler, as coverage can see it."""
    for compiled, _ in compiling._kernels:
        function = getattr(compiled, "py_func", compiled)
        monkeypatch.setitem(function.__globals__, function.__name__, function)
    monkeypatch.setattr(decoding, "cores", lambda: 1)
    monkeypatch.setattr(quantized_linear, "cores", lambda: 1)


# ---- the logits

@KINDS_OF_WEIGHTS
@DTYPES
@every_kind
def test_the_logits_are_those_of_the_layers(steps, kind, dtype, weights):
    model = make(kind, weights, dtype=dtype)
    expected = model.logits([TEXT])[0]
    assert_close(model, one_by_one(model), expected)
    assert steps == list(zip(TEXT, range(len(TEXT)), strict=True))


@KINDS_OF_WEIGHTS
@every_kind
@pytest.mark.parametrize("prompt", [2, 7, 8, 9, 15, 20])
def test_after_a_prompt_the_cache_holds_what_the_next_token_needs(steps, kind, weights, prompt):
    model = make(kind, weights)
    expected = model.logits([TEXT])[0, prompt - 1:]
    assert_close(model, one_by_one(model, prompt=prompt), expected)
    through_blas = prompt if prompt > models_decoding.ONE_BY_ONE else 0
    assert [position for _, position in steps] == list(range(through_blas, len(TEXT)))


def test_a_prompt_can_follow_single_tokens():
    model = make()
    step = new_step(model, 1, len(TEXT))
    for token in TEXT[:4]:
        step(np.array([[token]]), np.array([1]))
    received = [step(np.array([piece]), np.array([len(piece)]))[0] for piece in (TEXT[4:14], TEXT[14:20], TEXT[20:])]
    assert_close(model, np.array(received), model.logits([TEXT])[0, [13, 19, 20]])


def test_a_row_that_rests_is_not_disturbed():
    model = make()
    step = new_step(model, 1, len(TEXT))
    step(np.array([TEXT[:3] + [0]]), np.array([3]))             # the fourth is padding
    step(np.array([[0]]), np.array([0]))                        # and so is this
    assert_close(model, step(np.array([TEXT[3:4]]), np.array([1]))[0], model.logits([TEXT[:4]])[0, -1])


def test_frozen_weights_are_read_from_their_own_buffer():
    frozen = ["model.embed_tokens.*", "model.layers.0.*"]
    model = mut.tiny_model(backend=BACKEND, frozen=frozen, max_position_embeddings=CONTEXT)
    assert_close(model, one_by_one(model), make().logits([TEXT])[0])


@KINDS_OF_WEIGHTS
@every_kind
def test_without_a_compiler_it_gives_the_same(plain_python, kind, weights):
    model = make(kind, weights)
    assert_close(model, one_by_one(model), model.logits([TEXT])[0])


def test_a_weight_that_is_not_a_number_stays_visible():
    model = make()
    model.parameters["model.layers.1.self_attn.k_proj.weight"][3, 2] = np.nan
    assert np.isnan(one_by_one(model)).all()


def test_a_logit_keeps_its_value_while_the_next_are_computed():
    step = new_step(make(), 1, 4)
    first = step(np.array([[3]]), np.array([1]))
    kept = first.copy()
    step(np.array([[7]]), np.array([1]))
    np.testing.assert_array_equal(first, kept)


@DTYPES
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("head_dim", [4, 32, 40])
def test_matrices_of_different_kinds_and_rows_that_fill_no_block(team_of, steps, dtype, size, head_dim):
    """Floats, int8 by rows, and int8 and four bits in groups of several sizes, all in one layer."""
    sizes = {"vocab_size": 2 * ROWS + 13, "hidden_size": 48, "intermediate_size": ROWS + 8, "head_dim": head_dim}
    original = mut.tiny_model(dtype=dtype, max_position_embeddings=CONTEXT, attention_bias=True, **sizes)
    makers = [lambda weight: quantize_groups(weight, 4, 4), quantize_rows, lambda weight: quantize_groups(weight, 8, 2),
              lambda weight: quantize_groups(weight, 4, weight.shape[1]), lambda weight: weight,
              lambda weight: quantize_groups(weight, 8, weight.shape[1] // 2),
              lambda weight: quantize_groups(weight, 4, weight.shape[1] // 4)]
    numbers = {name: number for number, name in enumerate(original.parameters)}

    def held(name):
        weight = original.parameters[name]
        return weight if weight.ndim == 1 else makers[numbers[name] % len(makers)](weight)

    team_of(size)
    model = QuantizedLlama(original.config, OnDemand(held), backend=BACKEND, dtype=dtype)
    kinds = {type(weight) for weight in model.parameters.values()}
    assert len(kinds) == 3
    assert any(isinstance(weight, PackedWeight) and weight.bits == 4 for weight in model.parameters.values())
    expected = model.logits([TEXT])[0]
    assert_close(model, one_by_one(model), expected)
    assert_close(model, one_by_one(model, prompt=9), expected[8:])
    assert len(steps) == 2 * len(TEXT) - 9


@compiled_only
def test_the_signatures_are_those_with_which_the_kernels_are_called():
    for dtype in ("float32", "float64"):
        for weights in WEIGHTS:
            model = make(weights=weights, dtype=dtype)
            one_by_one(model)
            one_by_one(model, prompt=12)
    for compiled, signature in compiling._kernels:
        if compiled.py_func.__module__ in (decoding.__name__, quantized_linear.__name__):
            before = len(compiled.signatures)
            for dtype in ("float32", "float64"):
                compiled.compile(re.sub(r"\bT\b", dtype, signature))
            assert len(compiled.signatures) == before == (1 if compiled is quantized_linear._meet else 2)


def test_weights_with_gaps_are_refused():
    vector, matrix = np.ones(4), np.ones((4, 8))[:, ::2]
    layer = {"attention_norm": vector, "mlp_norm": vector, "q_norm": None, "k_norm": None} | {
        name: value for part in ("qkv", "output", "gate_up", "down")
        for name, value in ((part, matrix), (f"{part}_bias", None))}
    cache = np.zeros((1, 1, 1, 5, 4))
    with pytest.raises(ValueError, match=r"new_token_step: expected contiguous arrays, got the strides"):
        decoding.new_token_step(embedding=matrix, layers=[layer], norm=vector, head=matrix, eps=1e-5, cos=None,
                                sin=None, heads=1, window=None, keys=cache, values=cache)


# ---- which steps are fused

@pytest.mark.parametrize("kind", NOT_COVERED)
def test_another_architecture_goes_through_its_layers(steps, kind):
    model = make(kind)
    assert_close(model, one_by_one(model), model.logits([TEXT])[0])
    assert steps == []


def test_several_texts_go_through_the_layers(steps):
    model, plain = make(), make(backend="numpy")
    prompts = [TEXT[:5], TEXT[5:7], [3]]
    together = list(model.generate(prompts, 8, temperature=0))
    assert steps == []
    np.testing.assert_array_equal(together, list(plain.generate(prompts, 8, temperature=0)))


OPS_OF_A_STEP = ("embedding_forward", "linear_forward", "rmsnorm_forward", "rope_forward", "attention_forward",
                 "softmax_forward", "swiglu_forward", "sample")


@pytest.mark.parametrize("name", OPS_OF_A_STEP)
def test_a_replaced_operation_is_reached_at_every_token(steps, name):
    calls = []
    model = make(backend=mut.spying(calls, name, backend=BACKEND))
    text = model.generate(TEXT[:3], 4)
    counts = [len(calls) for _ in text]
    assert len(set(counts)) == 4
    assert steps == []


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_replaced_product_is_reached_in_a_quantised_model(steps, weights):
    calls = []
    model = make(weights=weights, backend=mut.spying(calls, "quantized_linear", backend=BACKEND))
    list(model.generate(TEXT[:3], 4))
    assert len(calls) == 4 * (2 * 4 + 1)            # tokens · (layers · products + the head)
    assert steps == []
    assert not any(isinstance(weight, PackedWeight) for weight in model.parameters.values())


@pytest.mark.parametrize("name", ["rmsnorm_forward", "linear_forward", "dequantize"])
def test_a_quantised_model_works_with_other_operations_replaced(steps, name):
    calls = []
    model, plain = (make(weights="int4", backend=backend)
                    for backend in (mut.spying(calls, name, backend=BACKEND), "numpy"))
    assert list(model.generate(TEXT[:3], 6, temperature=0)) == list(plain.generate(TEXT[:3], 6, temperature=0))
    assert steps == []
    matrices = 2 * (3 + 1 + 2 + 1) + 1                  # in two layers, and the head
    assert len(calls) == 6 * {"linear_forward": 0, "rmsnorm_forward": 5, "dequantize": 1 + matrices}[name]
    is_packed = any(isinstance(weight, PackedWeight) for weight in model.parameters.values())
    assert is_packed == (name != "dequantize")


# ---- generation

@KINDS_OF_WEIGHTS
@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 1.3, "top_k": 9, "seed": 3}], ids=str)
def test_generated_tokens_are_those_of_the_readable_backend(steps, weights, sampling):
    model, plain = make(weights=weights), make(weights=weights, backend="numpy")
    assert list(model.generate(TEXT[:3], 18, **sampling)) == list(plain.generate(TEXT[:3], 18, **sampling))
    assert len(steps) == 3 + 17


def test_a_text_slides_past_the_context(steps):
    model, plain = make(), make(backend="numpy")
    with pytest.warns(ContextLimitWarning):
        received = list(model.generate(TEXT[:3], 60, temperature=0, on_limit="slide"))
        expected = list(plain.generate(TEXT[:3], 60, temperature=0, on_limit="slide"))
    assert received == expected
    assert max(position for _, position in steps) == CONTEXT - 1


def test_training_between_two_texts_is_seen():
    model = make()
    optimizer = tl.AdamW(model, learning_rate=0.1)
    before = one_by_one(model)
    for _ in range(2):
        model.loss_and_grads(mut.IDS, mut.TARGETS)
        optimizer.step()
    after = one_by_one(model)
    assert np.abs(after - before).max() > 0.1
    assert_close(model, after, model.logits([TEXT])[0])


# ---- the team

@KINDS_OF_WEIGHTS
@DTYPES
@every_kind
@pytest.mark.parametrize("size", [2, 3])
def test_a_team_gives_the_bits_of_one_member(monkeypatch, team_of, kind, dtype, weights, size):
    model = make(kind, weights, dtype=dtype)
    team_of(1)
    alone = one_by_one(model)
    team_of(size)
    sizes = []
    monkeypatch.setattr(decoding, "run_as_team", lambda work, size: (sizes.append(size), run_as_team(work, size)))
    for _ in range(2):
        np.testing.assert_array_equal(one_by_one(model), alone)
    assert sizes == [size] * 2 * len(TEXT)


@pytest.mark.parametrize(("workers", "megabytes", "expected"), [
    (None, 1000, 6), (2, 1000, 2), (1, 1000, 1), (50, 1000, 6), (None, 7, 1), (None, 9, 2), (None, 0, 1)])
def test_the_size_of_a_team(monkeypatch, workers, megabytes, expected):
    monkeypatch.setattr(decoding, "cores", lambda: 6)
    assert decoding._choose_size(workers, megabytes * 2**20) == expected


def test_the_workers_of_the_model_are_the_members_at_most(monkeypatch, team_of):
    sizes = []
    monkeypatch.setattr(decoding, "run_as_team", lambda work, size: sizes.append(size))
    team_of(4)
    for workers in (3, 1, 9, None):
        model = make()
        model.workers = workers
        one_by_one(model, TEXT[:1])
    assert sizes == [3, 1, 4, 4]


@pytest.mark.parametrize("slow", [0, 1])
def test_no_member_runs_ahead_of_what_it_needs(monkeypatch, plain_python, slow):
    """Uncompiled, with meetings of Python's own, and one member that is late to every piece of work."""
    class Meeting(threading.local):
        rank = None

    here, barrier = Meeting(), threading.Barrier(2)

    def late(function):
        def do(*arguments):
            if here.rank == slow:
                time.sleep(0.002)
            return function(*arguments)
        return do

    def run(work, size):
        def member(rank):
            here.rank = rank
            work(rank, size, None)
        threads = [threading.Thread(target=member, args=(rank,)) for rank in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    model = make()
    expected = model.logits([TEXT[:4]])[0]
    for name in ("look_up", "multiply", "_rotate_and_store", "_attend", "_activate"):
        monkeypatch.setattr(decoding, name, late(getattr(decoding, name)))
    monkeypatch.setattr(decoding, "meet", lambda meeting, number, size: barrier.wait(30) >= 0)
    monkeypatch.setattr(decoding, "run_as_team", run)
    monkeypatch.setattr(decoding, "cores", lambda: 2)
    monkeypatch.setattr(decoding, "BYTES_OF_A_MEMBER", 1)
    assert_close(model, one_by_one(model, TEXT[:4]), expected)


@pytest.mark.parametrize("met", range(1, 13))
def test_a_cancelled_step_ends_at_the_next_meeting(monkeypatch, plain_python, met):
    model = make(num_hidden_layers=2)
    meetings = []

    def meet(meeting, number, size):
        meetings.append(number)
        return number < met

    results = []
    monkeypatch.setattr(decoding, "meet", meet)
    monkeypatch.setattr(decoding, "run_as_team", lambda work, size: results.append(work(0, 1, None)))
    one_by_one(model, TEXT[:1])
    assert results == [False]
    assert meetings == list(range(1, met + 1))


def test_two_threads_write_at_once(team_of):
    team_of(2)
    model = make()
    expected = [list(model.generate(prompt, 15, temperature=0)) for prompt in ([3, 1], [5])]
    received = [None, None]

    def write(i, prompt):
        received[i] = [list(model.generate(prompt, 15, temperature=0)) for _ in range(20)]

    threads = [threading.Thread(target=write, args=arguments) for arguments in ((0, [3, 1]), (1, [5]))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert received == [[text] * 20 for text in expected]


def test_worker_threads_write_each_for_itself(monkeypatch, team_of):
    team_of(2)
    model = make()
    expected = list(model.generate([3, 1], 15, temperature=0))
    monkeypatch.setattr(team, "_others", None)                  # no thread but the caller's own is asked for
    texts = run_in_threads([lambda: list(model.generate([3, 1], 15, temperature=0))] * 3)
    assert texts == [expected] * 3


FORK = """
import os, sys
import models_under_test as mut
from tinyllama.backends.cpu import compiling, decoding, team
from tinyllama.backends.cpu.packed_weight import ROWS, PackedWeight
decoding.cores, decoding.BYTES_OF_A_MEMBER = (lambda: 2), 1
model = mut.tiny_model(backend="numba", workers=None)
before = list(model.generate([3, 1], 6, temperature=0))
assert len(team._others(1, os.getpid()).ids) == 1
child = os.fork()
after = list(model.generate([3, 1], 6, temperature=0))
if child == 0:
    os._exit(0 if after == before else 1)
sys.exit(os.waitpid(child, 0)[1] or after != before)
"""


@compiled_only
@pytest.mark.skipif(sys.platform == "win32", reason="There is no fork.")
def test_a_forked_process_has_a_team_of_its_own():
    paths = [path for path in sys.path if path]
    code = f"import sys; sys.path[:0] = {paths!r}\n{FORK}"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=120, check=False).returncode == 0


# ---- mistakes that these comparisons would find

def planted(monkeypatch, change):
    """Let the fused step be made of other weights: change(weights) alters the dictionary of its arguments."""
    def wrong(**weights):
        weights["layers"] = [dict(layer) for layer in weights["layers"]]
        change(weights)
        return decoding.new_token_step(**weights)
    monkeypatch.setattr(BACKEND, "new_token_step", wrong)


def of_every_layer(name, function):
    def change(weights):
        for layer in weights["layers"]:
            layer[name] = function(layer[name])
    return change


def shift_rows(matrix):
    return np.roll(matrix, 1, axis=0)


def changed(matrix, change):
    """change(part) of a quantised matrix, or of every part of one that is stacked."""
    return StackedWeight(map(change, matrix.parts)) if isinstance(matrix, StackedWeight) else change(matrix)


def scale_of_the_next_row(matrix):
    return changed(matrix, lambda part: part._replace(scales=np.roll(part.scales, 1, axis=0)))


def scale_of_the_next_packed_row(matrix):
    return changed(matrix, lambda part: dataclasses.replace(part, scales=np.roll(part.scales, 1, axis=2)))


def scale_of_the_next_group(matrix):
    return changed(matrix, lambda part: dataclasses.replace(part, scales=np.roll(part.scales, 1, axis=1)))


def halves_exchanged(matrix):
    return changed(matrix, lambda part: dataclasses.replace(part, values=part.values % 16 * 16 + part.values // 16))


def no_offsets(matrix):
    return changed(matrix, lambda part: dataclasses.replace(part, offsets=None))


def double_queries(matrix):
    matrix = matrix.copy()
    matrix[:4 * 4] *= 2             # as if the scores were not divided by sqrt(D), which is 2
    return matrix


MISTAKES = {
    "rows shifted": ("float", of_every_layer("qkv", shift_rows)),
    "rows of the last product shifted": ("float", of_every_layer("down", shift_rows)),
    "scale of the wrong row": ("int8", of_every_layer("gate_up", scale_of_the_next_row)),
    "scale of the wrong row in the head": (
        "int8", lambda weights: weights.update(head=scale_of_the_next_row(weights["head"]))),
    "packed scale of the wrong row": ("int4", of_every_layer("gate_up", scale_of_the_next_packed_row)),
    "scale of the wrong group": ("int8 in groups", of_every_layer("output", scale_of_the_next_group)),
    "scale of the wrong group in the embedding": (
        "int4", lambda weights: weights.update(embedding=scale_of_the_next_group(weights["embedding"]))),
    "halves of the bytes exchanged": ("int4", of_every_layer("qkv", halves_exchanged)),
    "no offsets": ("int4", of_every_layer("down", no_offsets)),
    "no norm of k": ("float", of_every_layer("k_norm", lambda norm: None)),
    "the norm of q for k": ("float", lambda weights: [layer.update(k_norm=layer["q_norm"])
                                                      for layer in weights["layers"]]),
    "scores not divided": ("float", of_every_layer("qkv", double_queries)),
    "no rotation": ("float", lambda weights: weights.update(cos=None, sin=None)),
    "keys and values exchanged": (
        "float", lambda weights: weights.update(keys=weights["values"], values=weights["keys"])),
    "a window too short by one": ("float", lambda weights: weights.update(window=weights["window"] - 1)),
    "norms exchanged": ("float", lambda weights: weights.update(norm=weights["layers"][0]["mlp_norm"])),
    "no bias": ("float", of_every_layer("output_bias", lambda bias: None)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_found(monkeypatch, mistake):
    weights, change = MISTAKES[mistake]
    model = make(weights=weights, sliding_window=5, attention_bias=True, qk_norm="norm of" in mistake)
    text, prompt = TEXT[:12], 9                 # the prompt comes through BLAS, and only then the fused step
    expected = model.logits([text])[0, prompt - 1:]
    assert_close(model, one_by_one(model, text, prompt), expected)
    planted(monkeypatch, change)
    with pytest.raises(AssertionError):
        assert_close(model, one_by_one(model, text, prompt), expected)


@pytest.mark.parametrize("offset", [1, -1])
def test_a_position_off_by_one_is_found(monkeypatch, offset):
    def wrong(**weights):
        step = decoding.new_token_step(**weights)
        return lambda token, position: step(token, position + offset)
    model = make()
    monkeypatch.setattr(BACKEND, "new_token_step", wrong)
    text = TEXT[:12]
    step = new_step(model, 1, 14)
    step(np.array([text[:9]]), np.array([9]))
    received = [step(np.array([[token]]), np.array([1]))[0] for token in text[9:]]
    with pytest.raises(AssertionError):
        assert_close(model, np.array(received), model.logits([text])[0, 9:])
