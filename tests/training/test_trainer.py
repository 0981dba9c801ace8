import itertools
import math

import numpy as np
import pytest
from models_under_test import DOCUMENTS, IDS, TARGETS, copies, spying, tiny_model

from tinyllama.models import Llama, LlamaConfig
from tinyllama.training import SGD, AdamW, TrainingSettings, evaluate, learning_rate_at, make_optimizer, train

VALID = int(np.count_nonzero(TARGETS != -100))


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

    def windows(step):
        starts = np.random.default_rng(step).integers(0, len(text) - 12, (4, 1))
        return text[starts + np.arange(12)], text[starts + np.arange(1, 13)]

    model = small_model(vocab_size=5)
    losses = [float(report.loss) for report in train(model, windows, TrainingSettings(
        steps=80, learning_rate=0.02, warmup_steps=10))]
    assert losses[0] == pytest.approx(math.log(5), abs=0.3)
    # Only the first token of a row cannot be known for sure, if it is a 1: the floor is log(2) / 3 / 12 = 0.02.
    assert np.mean(losses[-10:]) < 0.08
    assert evaluate(model, [windows(1000)]).loss < 0.08


def test_sgd_learns_one_batch_by_heart():
    model = small_model()
    settings = TrainingSettings(steps=200, learning_rate=0.2, warmup_steps=10, optimizer="sgd", weight_decay=0.0)
    reports = list(train(model, always, settings))
    assert float(reports[0].loss) == pytest.approx(math.log(13), abs=0.1)
    assert float(reports[-1].loss) < 0.05


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
        assert report.learning_rate == learning_rate_at(step, schedule="cosine", peak=0.5, warmup_steps=2,
                                                        total_steps=6, final_fraction=0.2)
        twin.parameters.trainable[...] = model.parameters.trainable
    assert step == 5


@pytest.mark.parametrize(("dropout", "expected"), [(0.1, [(7, 0, 0), (7, 1, 0), (7, 2, 0)]), (0.0, [None] * 3)])
def test_every_step_has_dropout_masks_of_its_own(dropout, expected, monkeypatch):
    model, received = small_model(dropout=dropout), []
    compute = model.loss_and_grads

    def spy(*args, **settings):
        received.append(settings["dropout"])
        return compute(*args, **settings)

    monkeypatch.setattr(model, "loss_and_grads", spy)
    losses = [float(report.loss) for report in train(model, always, TrainingSettings(steps=3, seed=7))]
    assert received == expected
    assert len(set(losses)) == 3


@pytest.mark.parametrize("setting", [{"max_grad_norm": 1e-3}, {"betas": (0.5, 0.6)}, {"weight_decay": 50.0},
                                     {"learning_rate": 0.1}, {"warmup_steps": 1}, {"final_fraction": 0.9},
                                     {"optimizer": "sgd"}, {"schedule": "constant"}, {"l2": 5.0},
                                     {"label_smoothing": 0.3}], ids=str)
def test_every_setting_reaches_the_optimizer(setting):
    def weights(**changes):
        model = small_model()
        for _ in train(model, random_batch, TrainingSettings(**{"steps": 4, "warmup_steps": 2} | changes)):
            pass
        return model.parameters.trainable

    np.testing.assert_array_equal(weights(), weights())
    assert not np.array_equal(weights(**setting), weights())


@pytest.mark.parametrize("setting", [{"momentum": 0.1}, {"weight_decay": 50.0}, {"l2": 5.0}], ids=str)
def test_every_setting_of_sgd_reaches_it(setting):
    def weights(**changes):
        model = small_model()
        for _ in train(model, random_batch, TrainingSettings(steps=4, warmup_steps=2, optimizer="sgd", **changes)):
            pass
        return model.parameters.trainable

    assert not np.array_equal(weights(**setting), weights())


def test_make_optimizer_makes_what_the_settings_say():
    model = small_model()
    values = {"learning_rate": 0.3, "weight_decay": 0.2, "l2": 0.01}
    adamw = make_optimizer(model, TrainingSettings(betas=(0.7, 0.8), **values))
    sgd = make_optimizer(model, TrainingSettings(optimizer="sgd", momentum=0.6, **values))
    assert (type(adamw), type(sgd)) == (AdamW, SGD)
    assert adamw.betas == (0.7, 0.8)
    assert sgd.momentum == 0.6
    for optimizer in (adamw, sgd):
        assert optimizer.model is model
        assert {name: getattr(optimizer, name) for name in values} == values


# ---- going on

def run_to(stop, *, settings, workers, optimizer=None, model=None, first_step=0):
    """(model, optimizer, losses) after the steps from first_step up to `stop`."""
    model = model or small_model(workers=workers, dropout=0.2)
    optimizer = optimizer or make_optimizer(model, settings)
    reports = train(model, random_batch, settings, optimizer, first_step)
    return model, optimizer, [float(report.loss) for report in itertools.islice(reports, stop - first_step)]


@pytest.mark.parametrize("micro_steps", [1, 2])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_run_that_stopped_goes_on_as_if_it_had_not_bit_for_bit(optimizer, workers, micro_steps):
    settings = TrainingSettings(steps=8, learning_rate=0.02, warmup_steps=4, seed=3, optimizer=optimizer,
                                l2=0.01, label_smoothing=0.1, micro_steps=micro_steps)
    whole, _, losses = run_to(8, settings=settings, workers=workers)

    stopped, first_optimizer, first_losses = run_to(3, settings=settings, workers=workers)
    resumed = small_model(workers=workers, dropout=0.2, seed=None)
    resumed.parameters.trainable[...] = stopped.parameters.trainable
    second_optimizer = make_optimizer(resumed, settings)
    second_optimizer.load_state(first_optimizer.state(), first_optimizer.steps)
    _, _, more_losses = run_to(8, settings=settings, workers=workers, model=resumed, optimizer=second_optimizer,
                               first_step=3)
    assert first_losses + more_losses == losses
    np.testing.assert_array_equal(resumed.parameters.trainable, whole.parameters.trainable)
    assert second_optimizer.steps == 8


@pytest.mark.parametrize("forgotten", ["the state", "the number of steps", "the first step"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_run_that_forgets_something_goes_on_otherwise(optimizer, forgotten):
    settings = TrainingSettings(steps=8, learning_rate=0.02, warmup_steps=4, optimizer=optimizer)
    whole, _, _ = run_to(8, settings=settings, workers=1)
    model, first_optimizer, _ = run_to(3, settings=settings, workers=1)
    state = first_optimizer.state()
    if forgotten == "the state":
        state = {name: np.zeros_like(array) for name, array in state.items()}
    second_optimizer = make_optimizer(model, settings)
    second_optimizer.load_state(state, 0 if forgotten == "the number of steps" else 3)
    run_to(8, settings=settings, workers=1, model=model, optimizer=second_optimizer,
           first_step=0 if forgotten == "the first step" else 3)
    is_the_same = np.array_equal(model.parameters.trainable, whole.parameters.trainable)
    # the velocity knows nothing of the number of steps; the moments are divided by a function of it
    assert is_the_same == (optimizer == "sgd" and forgotten == "the number of steps")


def test_a_run_goes_on_up_to_its_last_step():
    settings = TrainingSettings(steps=5)
    model = small_model()
    assert [report.step for report in train(model, random_batch, settings, first_step=3)] == [3, 4]
    assert list(train(model, random_batch, settings, first_step=5)) == []
    for first_step in (-1, 6):
        with pytest.raises(ValueError, match=rf"first_step: expected 0 to 5, the steps of the run, got {first_step}"):
            next(train(model, random_batch, settings, first_step=first_step))


def test_the_optimizer_of_another_model_is_refused():
    with pytest.raises(ValueError, match="optimizer: expected one of this model, got one of another"):
        next(train(small_model(), random_batch, TrainingSettings(), AdamW(small_model())))


# ---- micro-steps

def first_step_of(model, *, micro_steps, batch=(IDS, TARGETS), **changes):
    """(loss, flat gradient) of the first update."""
    report = next(train(model, lambda step: batch, TrainingSettings(micro_steps=micro_steps, **changes)))
    return float(report.loss), model.gradient


def check_accumulation(model, micro_steps, batch=(IDS, TARGETS), **changes):
    """Compare loss and gradient of an update in pieces with those of the same rows at once, to 1e-12."""
    twin = tiny_model()
    documents = batch[2] if len(batch) == 3 else None
    loss, _ = twin.loss_and_grads(*batch[:2], documents=documents, **changes)
    received_loss, gradient = first_step_of(model, micro_steps=micro_steps, batch=batch, **changes)
    assert received_loss == pytest.approx(float(loss), abs=1e-12)
    np.testing.assert_allclose(gradient, twin.gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("micro_steps", [1, 2, 3])
@pytest.mark.parametrize("documents", [(), (None,), (DOCUMENTS,)], ids=["two", "None", "documents"])
def test_pieces_add_up_to_the_whole(micro_steps, workers, label_smoothing, documents):
    assert len(set(np.count_nonzero(TARGETS != -100, axis=1))) == 3     # each row has another number of targets
    check_accumulation(tiny_model(workers=workers), micro_steps, (IDS, TARGETS, *documents),
                       label_smoothing=label_smoothing)


def test_a_piece_without_a_target_adds_nothing():
    targets = TARGETS.copy()
    targets[1] = -100
    check_accumulation(tiny_model(), 3, (IDS, targets))
    loss, gradient = first_step_of(tiny_model(), micro_steps=3, batch=(IDS, np.full_like(TARGETS, -100)))
    assert loss == 0.0
    assert not gradient.any()


WRONG = {
    "a divisor for each piece": lambda ids, targets, divisor, **settings: (ids, targets, None, settings),
    "the mean of the pieces' means": lambda ids, targets, divisor, **settings: (
        ids, targets, 2 * max(np.count_nonzero(targets != -100), 1), settings),
    "all targets counted": lambda ids, targets, divisor, **settings: (ids, targets, IDS.size, settings),
    "= for +=": lambda ids, targets, divisor, **settings: (ids, targets, divisor, settings | {"accumulate": False}),
    "the documents of the first rows": lambda ids, targets, divisor, **settings: (
        ids, targets, divisor, settings | {"documents": DOCUMENTS[:len(ids)]}),
    "no smoothing": lambda ids, targets, divisor, **settings: (
        ids, targets, divisor, settings | {"label_smoothing": 0.0}),
}


@pytest.mark.parametrize("label", WRONG)
def test_wrong_accumulation_is_found(label, monkeypatch):
    model = tiny_model()
    compute = model.loss_and_grads

    def wrong(*args, **settings):
        ids, targets, divisor, settings = WRONG[label](*args, **settings)
        return compute(ids, targets, divisor, **settings)

    check_accumulation(model, 2, (IDS, TARGETS, DOCUMENTS), label_smoothing=0.2)
    monkeypatch.setattr(model, "loss_and_grads", wrong)
    with pytest.raises(AssertionError):
        check_accumulation(model, 2, (IDS, TARGETS, DOCUMENTS), label_smoothing=0.2)


def test_micro_steps_see_less_at_once_and_draw_masks_of_their_own():
    calls = []
    model = tiny_model(dropout=0.3, backend=spying(calls, "embedding_forward", "dropout_forward"))
    next(train(model, always, TrainingSettings(micro_steps=3, seed=7)))
    assert [args[0].shape for name, args, _, _ in calls if name == "embedding_forward"] == [(1, 7)] * 3
    keys = [settings["key"] for name, _, settings, _ in calls if name == "dropout_forward"]
    assert len(set(keys)) == len(keys) == 3 * 5


def test_the_keys_of_dropout_are_seed_step_and_micro_step(monkeypatch):
    model, received = small_model(dropout=0.1), []
    compute = model.loss_and_grads
    monkeypatch.setattr(model, "loss_and_grads", lambda *args, **settings: received.append(
        settings["dropout"]) or compute(*args, **settings))
    list(train(model, always, TrainingSettings(steps=2, seed=7, micro_steps=2)))
    assert received == [(7, 0, 0), (7, 0, 1), (7, 1, 0), (7, 1, 1)]


def test_more_micro_steps_than_rows_are_refused_before_anything_changes():
    model = small_model()
    before = model.parameters.trainable.copy()
    with pytest.raises(ValueError, match="micro_steps: expected at most the 3 rows of a batch, got 4"):
        next(train(model, always, TrainingSettings(micro_steps=4)))
    np.testing.assert_array_equal(model.parameters.trainable, before)


@pytest.mark.parametrize("micro_steps", [1, 2, 3])
def test_targets_or_documents_with_other_rows_are_refused(micro_steps):
    settings = TrainingSettings(micro_steps=micro_steps)
    for name, batch in (("targets", (IDS, np.vstack([TARGETS, TARGETS]))), ("targets", (IDS, TARGETS[:2])),
                        ("documents", (IDS, TARGETS, DOCUMENTS[:, :3]))):
        with pytest.raises(ValueError, match=f"{name}: expected the shape of ids"):
            next(train(small_model(), lambda step, batch=batch: batch, settings))


# ---- evaluation

def test_evaluate_is_the_mean_loss_without_dropout():
    model = tiny_model(dropout=0.5)
    before = copies(model.parameters)
    batches = [random_batch(step) for step in range(3)]
    losses = []
    for ids, targets in batches:
        logits = model.logits(ids)                                              # (B, T, V)
        log_p = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
        losses.append(-np.mean(np.take_along_axis(log_p, targets[..., None], axis=-1)))
    evaluation = evaluate(model, batches)
    assert type(evaluation.loss) is float
    assert evaluation.loss == pytest.approx(np.mean(losses), rel=1e-12)
    assert evaluation.targets == 3 * 3 * 7
    assert evaluate(model, iter(batches)) == evaluation
    for name in before:
        np.testing.assert_array_equal(model.parameters[name], before[name])


@pytest.mark.parametrize("cut", [[0, 3], [0, 2, 3], [0, 1, 2, 3]], ids=str)
def test_every_target_weighs_the_same_in_whichever_batch_it_is(cut):
    model = tiny_model()
    whole = float(model.loss(IDS, TARGETS, documents=DOCUMENTS))
    batches = [(IDS[a:b], TARGETS[a:b], DOCUMENTS[a:b]) for a, b in itertools.pairwise(cut)]
    assert evaluate(model, batches) == (pytest.approx(whole, rel=1e-12), VALID)
    assert abs(whole - float(model.loss(IDS, TARGETS))) > 1e-3          # the documents matter
    means = [float(model.loss(ids, targets, documents=documents)) for ids, targets, documents in batches]
    assert len(cut) == 2 or abs(np.mean(means) - whole) > 1e-3          # a mean of means is another number


def test_a_batch_without_targets_counts_nothing():
    model = tiny_model()
    nothing = (IDS, np.full_like(TARGETS, -100))
    assert evaluate(model, [nothing, (IDS, TARGETS, None), nothing]) == evaluate(model, [(IDS, TARGETS)])
    shorter = (IDS[:1, :4], TARGETS[:1, :4])                            # another number of rows and of tokens
    assert evaluate(model, [shorter, nothing]).targets == 4


@pytest.mark.parametrize("batches", [[], [(IDS, np.full_like(TARGETS, -100))]], ids=["no batch", "no target"])
def test_evaluate_needs_a_target(batches):
    with pytest.raises(ValueError, match="batches: expected at least one target, got none"):
        evaluate(small_model(), batches)


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
    ({"optimizer": "adam"}, "optimizer: expected one of 'adamw', 'sgd', got 'adam'"),
    ({"optimizer": None}, "optimizer: expected one of 'adamw', 'sgd', got None"),
    ({"schedule": "step"}, "schedule: expected one of 'constant', 'linear', 'cosine', got 'step'"),
    ({"momentum": 1.5}, "momentum: expected 0 <= momentum < 1, got 1.5"),
    ({"l2": -0.1}, "l2: expected a number of at least 0, got -0.1"),
    ({"l2": math.nan}, "l2: expected a number of at least 0, got nan"),
    ({"label_smoothing": 1.1}, "label_smoothing: expected 0 <= label_smoothing <= 1, got 1.1"),
    ({"label_smoothing": -0.1}, "label_smoothing: expected 0 <= label_smoothing <= 1, got -0.1"),
    ({"micro_steps": 0}, "micro_steps: expected an integer of at least 1, got 0"),
    ({"micro_steps": 1.5}, "micro_steps: expected an integer of at least 1, got 1.5"),
])
def test_settings_out_of_their_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**settings)
