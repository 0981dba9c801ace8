"""The whole model on a device that refuses what a GPU would refuse, and how often data crosses to it and back."""

import numpy as np
import pytest
import strict_device
from models_under_test import DOCUMENTS, IDS, LLAMA3, TARGETS, assert_same_gradients, tiny_config, tiny_model

import tinyllama as tl
from tinyllama.generation import ENDED, ContextLimitWarning
from tinyllama.training import TrainingSettings, evaluate, make_optimizer, train

CONFIGS = {
    "llama": {},
    "tied": {"tie_word_embeddings": True},
    "one key for all queries, wide heads": {"num_key_value_heads": 1, "head_dim": 6},
    "llama3 rotation": {"rope_scaling": LLAMA3},
    "layernorm, gelu, learned positions": {"norm": "layernorm", "mlp": "gelu", "positions": "learned"},
    "relu, sinusoidal positions": {"mlp": "relu", "positions": "sinusoidal"},
    "no positions, a window": {"positions": "none", "sliding_window": 3},
    "biases": {"attention_bias": True, "mlp_bias": True, "norm": "layernorm"},
    "shared layers": {"num_hidden_layers": 3, "num_unique_layers": 2},
    "dropout": {"dropout": 0.3},
    "frozen": {"frozen": ("model.embed_tokens.*", "model.layers.0.*")},
    "all but the norms frozen": {"frozen": ("*_proj.*", "model.embed_tokens.*", "lm_head.*")},
}
EVERY_CONFIG = pytest.mark.parametrize("name", CONFIGS)
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
OPTIMIZERS = ["adamw", "sgd"]
SAMPLINGS = [{"temperature": 0}, {"temperature": 1.3, "top_k": 9, "top_p": 0.9, "min_p": 0.05, "seed": 3}]
PROMPTS = {"one": [3, 1, 3, 7], "of equal length": [[3, 1], [5, 5]], "of unequal length": [[3, 1, 3, 7], [5], [2, 2]]}


def twins(name="llama", dtype="float64", **changes):
    """One model twice, with the same weights: on the host, and on the device."""
    changes = CONFIGS[name] | changes
    frozen = changes.pop("frozen", ())
    host = tiny_model(dtype=dtype, frozen=frozen, **changes)
    device = tl.Llama(tiny_config(**changes), backend=strict_device.backend(), dtype=dtype, frozen=frozen)
    for parameter, weights in host.parameters.items():
        device.parameters[parameter][...] = strict_device.asarray(weights)
    return host, device


def assert_same(received, expected):
    """A device array against a host array: the same dtype and the same numbers, up to rounding."""
    received = received.get()
    assert received.dtype == expected.dtype
    np.testing.assert_allclose(received, expected, rtol=0,
                               atol=TOLERANCE[str(expected.dtype)] * np.max(np.abs(expected)))


def count(function, *args, **kwargs):
    """(uploads, downloads) of a call."""
    with strict_device.counted() as transfers:
        function(*args, **kwargs)
    return transfers.uploads, transfers.downloads


# ---- the same numbers

@pytest.mark.parametrize("dtype", TOLERANCE)
@EVERY_CONFIG
def test_logits_loss_and_gradients_are_those_of_numpy(name, dtype):
    host, device = twins(name, dtype)
    dropout = (5, 4, 3) if name == "dropout" else None
    for documents in (None, DOCUMENTS):
        assert_same(device.logits(IDS, documents=documents), host.logits(IDS, documents=documents))
        assert_same(device.loss(IDS, TARGETS, documents=documents), host.loss(IDS, TARGETS, documents=documents))
        # The second time it adds to the gradients of the first, as the parts of a large batch do.
        settings = dict(divisor=31, accumulate=documents is not None, documents=documents, dropout=dropout)
        loss, gradients = device.loss_and_grads(IDS, TARGETS, **settings)
        expected, expected_gradients = host.loss_and_grads(IDS, TARGETS, **settings)
        assert_same(loss, expected)
        assert_same_gradients({parameter: gradient.get() for parameter, gradient in gradients.items()},
                              expected_gradients, TOLERANCE[dtype])


@pytest.mark.parametrize("prompt", [PROMPTS["one"], PROMPTS["of unequal length"]], ids=["one", "three"])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "drawn"])
@EVERY_CONFIG
def test_generated_tokens_are_those_of_numpy(name, sampling, prompt):
    host, device = twins(name)
    expected = list(host.generate(prompt, 5, **sampling))
    received = list(device.generate(prompt, 5, **sampling))
    assert all(type(token) is (int if prompt is PROMPTS["one"] else np.ndarray) for token in received)
    np.testing.assert_array_equal(received, expected)


def test_rows_that_end_before_others():
    prompt = PROMPTS["of unequal length"]
    first_end = int(list(twins()[0].generate(prompt, 2, temperature=0))[1][0])      # row 0 ends with its second token
    host, device = twins(eos_token_id=first_end)
    expected = list(host.generate(prompt, 5, temperature=0))
    np.testing.assert_array_equal(list(device.generate(prompt, 5, temperature=0)), expected)
    assert expected[2][0] == ENDED
    assert np.max(expected[2]) != ENDED


def test_generation_past_the_context(recwarn):
    host, device = twins()
    prompt = PROMPTS["of unequal length"]
    np.testing.assert_array_equal(list(device.generate(prompt, 20, on_limit="slide")),
                                  list(host.generate(prompt, 20, on_limit="slide")))
    assert {warning.category for warning in recwarn} == {ContextLimitWarning}


@pytest.mark.parametrize("micro_steps", [1, 2])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_training_is_that_of_numpy(dtype, optimizer, micro_steps):
    host, device = twins(dtype=dtype, dropout=0.2)
    settings = TrainingSettings(steps=4, warmup_steps=2, optimizer=optimizer, micro_steps=micro_steps, l2=0.1,
                                label_smoothing=0.1)
    for expected, received in zip(*(list(train(model, lambda step: (IDS, TARGETS, DOCUMENTS), settings))
                                    for model in (host, device)), strict=True):
        assert_same(received.loss, np.asarray(expected.loss))
        assert_same(received.norm, np.asarray(expected.norm))
    for parameter, weights in host.parameters.items():
        assert_same(device.parameters[parameter], weights)


def test_evaluation_is_that_of_numpy():
    host, device = twins()
    batches = [(IDS, TARGETS), (IDS[:1, :3], TARGETS[:1, :3], DOCUMENTS[:1, :3])]
    expected = evaluate(host, batches)
    assert evaluate(device, batches) == (pytest.approx(expected.loss, rel=1e-12), expected.targets)
    assert count(evaluate, device, batches) == (2, 2)           # up with each batch, down with its loss


# ---- how often data crosses

@EVERY_CONFIG
def test_ids_and_targets_go_up_together_and_nothing_comes_down(name):
    _, device = twins(name)
    dropout = (0, 0, 0) if name == "dropout" else None
    for documents in (None, DOCUMENTS):
        assert count(device.logits, IDS, documents=documents) == (1, 0)
        assert count(device.loss, IDS, TARGETS, documents=documents) == (1, 0)
        assert count(device.loss_and_grads, IDS, TARGETS, documents=documents, dropout=dropout) == (1, 0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_optimizer_stays_on_the_device(name):
    _, device = twins()
    optimizer = make_optimizer(device, TrainingSettings(optimizer=name, l2=0.1))
    loss, _ = device.loss_and_grads(IDS, TARGETS)
    for _ in range(3):                                  # the first one makes the moments
        assert count(optimizer.step, max_grad_norm=1.0) == (0, 0)
    assert count(optimizer.step) == (0, 0)
    buffers = len(optimizer.state())
    assert count(optimizer.state) == (0, buffers)
    assert count(optimizer.load_state, optimizer.state(), 4) == (buffers, 0)
    norm = optimizer.step(max_grad_norm=1.0)
    assert norm.shape == loss.shape == ()
    assert count(float, loss) == (0, 1)                 # whoever logs a number fetches it


@pytest.mark.parametrize("batch", [(IDS, TARGETS), (IDS, TARGETS, DOCUMENTS)], ids=["", "documents"])
@pytest.mark.parametrize("micro_steps", [1, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_training_run_uploads_once_a_micro_step_and_downloads_only_what_is_logged(optimizer, micro_steps, batch):
    _, device = twins()
    settings = TrainingSettings(steps=6, optimizer=optimizer, micro_steps=micro_steps, l2=0.1, label_smoothing=0.1)
    with strict_device.counted() as transfers:
        losses = [float(report.loss) for report in train(device, lambda step: batch, settings) if report.step % 3 == 0]
    assert (transfers.uploads, transfers.downloads) == (6 * micro_steps, len(losses)) == (6 * micro_steps, 2)


def transfers_of_each_token(prompt):
    """(uploads, downloads) for each of four tokens, greedy and drawn."""
    _, device = twins()
    counts = []
    for sampling in SAMPLINGS:
        tokens = device.generate(prompt, 4, **sampling)
        counts.append([count(next, tokens) for _ in range(4)])
    return counts


@pytest.mark.parametrize("prompt", ["one", "of equal length"])
def test_a_token_costs_the_ids_up_the_random_numbers_up_and_the_next_ids_down(prompt):
    greedy, drawn = transfers_of_each_token(PROMPTS[prompt])
    assert greedy == [(1, 1)] * 4
    assert drawn == [(2, 1)] * 4


def test_texts_of_unequal_length_also_send_up_where_their_tokens_stand():
    # And, in the first step, where rows are padded, which token of each is the last.
    greedy, drawn = transfers_of_each_token(PROMPTS["of unequal length"])
    assert greedy == [(3, 1)] + [(2, 1)] * 3
    assert drawn == [(4, 1)] + [(3, 1)] * 3


def test_a_new_model_goes_up_in_a_few_pieces():
    for positions, tables in (("rope", 2), ("sinusoidal", 1), ("learned", 0)):      # cos and sin; the vectors
        uploads, downloads = count(tl.Llama, tiny_config(num_hidden_layers=7, positions=positions),
                                   backend=strict_device.backend())
        assert (uploads, downloads) == (2 + tables, 0)          # the trainable weights and the frozen ones
