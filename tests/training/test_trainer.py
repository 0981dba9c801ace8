import math

import numpy as np
import pytest
from models_under_test import IDS, TARGETS, copies, tiny_model

from tinyllama.data import Batches
from tinyllama.models import Llama, LlamaConfig
from tinyllama.training import TrainingSettings, evaluate, train, warmup_cosine


def small_model(*, seed=0, workers=1, vocab_size=13, **changes):
    """A float32 model as a run begins with it: small weights, drawn from the seed."""
    return Llama(LlamaConfig(vocab_size=vocab_size, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
                             num_attention_heads=2, max_position_embeddings=16, tie_word_embeddings=True, **changes),
                 seed=seed, workers=workers)


def always(step):
    """The same batch in every step."""
    return IDS, TARGETS


def random_batch(step):
    """Another batch in every step, all targets valid."""
    return tuple(np.random.default_rng(step).integers(0, 13, (2, 3, 7)))


def test_it_learns_one_batch_by_heart():
    model = small_model()
    reports = list(train(model, always, TrainingSettings(steps=150, learning_rate=0.02, warmup_steps=10)))
    assert float(reports[0].loss) == pytest.approx(math.log(13), abs=0.1)       # it knows nothing yet
    assert float(reports[-1].loss) < 0.02
    greedy = np.argmax(model.logits(IDS), axis=-1)
    np.testing.assert_array_equal(greedy[TARGETS != -100], TARGETS[TARGETS != -100])


def test_the_loss_falls_on_a_repetitive_text():
    text = np.array([0, 1, 2, 3, 1, 4] * 60)            # what follows a 1 takes one look further back
    batches = Batches(text[:300], batch_size=4, context=12, seed=0)
    model = small_model(vocab_size=5)
    losses = [float(report.loss) for report in train(model, batches.batch, TrainingSettings(
        steps=80, learning_rate=0.02, warmup_steps=10))]
    assert losses[0] == pytest.approx(math.log(5), abs=0.3)
    # Only the first token of a row cannot be known for sure, if it is a 1: the floor is log(2) / 3 / 12 = 0.02.
    assert np.mean(losses[-10:]) < 0.08
    assert evaluate(model, [Batches(text[300:], batch_size=4, context=12, seed=1).batch(0)]) < 0.08


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(workers):
    def weights(model_seed, dropout_seed):
        model = small_model(seed=model_seed, workers=workers, dropout=0.2)
        for _ in train(model, random_batch, TrainingSettings(steps=5, warmup_steps=2, seed=dropout_seed)):
            pass
        return model.parameters.trainable.copy()

    expected = weights(1, 2)
    np.testing.assert_array_equal(weights(1, 2), expected)
    assert not np.array_equal(weights(7, 2), expected)
    assert not np.array_equal(weights(1, 7), expected)


def test_train_is_lazy_and_stops_when_nobody_asks_for_more():
    asked = []

    def batch(step):
        asked.append(step)
        return random_batch(step)

    model = small_model()
    before = model.parameters.trainable.copy()
    reports = train(model, batch, TrainingSettings(steps=5))
    assert asked == []
    np.testing.assert_array_equal(model.parameters.trainable, before)
    assert next(reports).step == 0
    assert asked == [0]
    after_one = model.parameters.trainable.copy()
    assert not np.array_equal(after_one, before)
    reports.close()
    np.testing.assert_array_equal(model.parameters.trainable, after_one)
    assert asked == [0]


def test_a_report_tells_loss_and_norm_before_the_update_and_the_rate_of_the_schedule():
    settings = TrainingSettings(steps=6, learning_rate=0.5, warmup_steps=2, final_fraction=0.2)
    model, twin = small_model(), small_model()
    for step, report in enumerate(train(model, random_batch, settings)):
        loss, grads = twin.loss_and_grads(*random_batch(step))
        assert report.step == step
        assert report.loss == loss
        norm = math.sqrt(sum(float(np.sum(gradient**2)) for gradient in grads.values()))
        assert float(report.norm) == pytest.approx(norm, rel=1e-5)
        assert report.learning_rate == warmup_cosine(step, peak=0.5, warmup_steps=2, total_steps=6, final_fraction=0.2)
        twin.parameters.trainable[...] = model.parameters.trainable
    assert step == 5


@pytest.mark.parametrize(("dropout", "expected"), [(0.1, [(7, 0, 0), (7, 1, 0), (7, 2, 0)]), (0.0, [None] * 3)])
def test_every_step_has_dropout_masks_of_its_own(dropout, expected, monkeypatch):
    model, received = small_model(dropout=dropout), []
    compute = model.loss_and_grads

    def spy(ids, targets, **settings):
        received.append(settings["dropout"])
        return compute(ids, targets, **settings)

    monkeypatch.setattr(model, "loss_and_grads", spy)
    losses = [float(report.loss) for report in train(model, always, TrainingSettings(steps=3, seed=7))]
    assert received == expected
    assert len(set(losses)) == 3


@pytest.mark.parametrize("setting", [{"max_grad_norm": 1e-3}, {"betas": (0.5, 0.6)}, {"weight_decay": 50.0},
                                     {"learning_rate": 0.1}, {"warmup_steps": 1}, {"final_fraction": 0.9}])
def test_every_setting_reaches_the_optimizer(setting):
    def weights(**changes):
        model = small_model()
        for _ in train(model, random_batch, TrainingSettings(**{"steps": 4, "warmup_steps": 2} | changes)):
            pass
        return model.parameters.trainable

    np.testing.assert_array_equal(weights(), weights())
    assert not np.array_equal(weights(**setting), weights())


def test_evaluate_is_the_mean_loss_without_dropout():
    model = tiny_model(dropout=0.5)
    before = copies(model.parameters)
    batches = [random_batch(step) for step in range(3)]
    losses = []
    for ids, targets in batches:
        logits = model.logits(ids)                                              # (B, T, V)
        log_p = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
        losses.append(-np.mean(np.take_along_axis(log_p, targets[..., None], axis=-1)))
    loss = evaluate(model, batches)
    assert type(loss) is float
    assert loss == pytest.approx(np.mean(losses), rel=1e-12)
    assert evaluate(model, iter(batches)) == loss
    for name in before:
        np.testing.assert_array_equal(model.parameters[name], before[name])


def test_evaluate_needs_a_batch():
    with pytest.raises(ValueError, match="batches: expected at least one batch, got none"):
        evaluate(small_model(), [])


@pytest.mark.parametrize(("settings", "message"), [
    ({"steps": 0}, "steps: expected a number above 0, got 0"),
    ({"steps": -3}, "steps: expected a number above 0, got -3"),
    ({"learning_rate": 0.0}, "learning_rate: expected a number above 0, got 0.0"),
    ({"learning_rate": math.nan}, "learning_rate: expected a number above 0, got nan"),
    ({"max_grad_norm": -1.0}, "max_grad_norm: expected a number above 0, got -1.0"),
    ({"warmup_steps": -1}, "warmup_steps: expected a number of at least 0, got -1"),
    ({"final_fraction": -0.1}, "final_fraction: expected a number of at least 0, got -0.1"),
    ({"seed": -1}, "seed: expected a number of at least 0, got -1"),
    ({"betas": (0.9, 1.0)}, r"betas: expected two numbers, 0 <= beta < 1, got \(0.9, 1.0\)"),
    ({"weight_decay": -0.1}, "weight_decay: expected a number of at least 0, got -0.1"),
])
def test_settings_out_of_their_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**settings)
