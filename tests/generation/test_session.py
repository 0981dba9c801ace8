"""A session remembers what a model has read, and changes nothing but the time."""

import models_under_test as mut
import numpy as np
import pytest

from tinyllama.backends import load_backend
from tinyllama.generation import ContextLimitWarning, session
from tinyllama.models import Llama
from tinyllama.models.lora import LoraSettings

FIRST, SECOND, OTHER = [3, 1, 3, 7], [5, 2], [4, 4, 8, 1, 0]


def model_of(backend="numpy", **changes):
    return mut.tiny_model(backend=backend, **{"max_position_embeddings": 60} | changes)


def alone(model, ids, count=5, **settings):
    return list(model.generate(ids, count, **{"temperature": 0} | settings))


def remembered(model, held, ids, count=5, **settings):
    return list(model.generate(ids, count, session=held, **{"temperature": 0} | settings))


@pytest.mark.parametrize("kind", [{}, {"sliding_window": 3}, {"positions": "learned"}, {"norm": "layernorm"},
                                  {"qk_norm": True, "attention_bias": True}], ids=str)
def test_a_text_in_several_goes_becomes_what_it_becomes_in_one(kind, backend):
    model = model_of(backend, **kind)
    held, text = model.new_session(), []
    for message in (FIRST, SECOND, OTHER, OTHER):
        text = text + message
        answer = remembered(model, held, text)
        assert answer == alone(model, text)
        text = text + answer
        assert held.tokens == text[:-1]         # the last one was drawn and not read


def test_sampling_draws_the_same_with_a_session_and_without():
    model, settings = model_of(), {"temperature": 1.2, "seed": 3}
    held = model.new_session()
    first = remembered(model, held, FIRST, **settings)
    assert first == alone(model, FIRST, **settings)
    text = FIRST + first + SECOND
    assert remembered(model, held, text, **settings) == alone(model, text, **settings)


def test_only_what_is_new_is_read():
    calls = []
    model = model_of(mut.spying(calls, "embedding_forward"))
    held = model.new_session()
    answer = remembered(model, held, FIRST, 3)
    calls.clear()
    text = FIRST + answer + SECOND
    assert held.common(text) == len(FIRST) + 2
    remembered(model, held, text, 2)
    assert [args[0].tolist() for _, args, _, _ in calls] == [[[answer[-1], *SECOND]], [[held.tokens[-1]]]]


@pytest.mark.parametrize("ids, count", [
    (OTHER, 0), ([3, 1, 9], 2), ([3, 1], 1), ([3], 0), ([3, 1, 3, 7], 3), ([3, 1, 3, 7, 2], 4)], ids=str)
def test_a_text_that_goes_another_way_keeps_the_common_beginning(ids, count):
    model = model_of()
    held = model.new_session()
    remembered(model, held, FIRST, 1)
    assert held.tokens == FIRST
    assert held.common(ids) == count
    assert remembered(model, held, ids) == alone(model, ids)


@pytest.mark.parametrize("at", range(1, 60, 4))
def test_an_interruption_anywhere_leaves_a_session_that_can_be_used(at):
    numpy, calls = load_backend("numpy"), [0]

    def interrupted(op):
        def call(*args, **kwargs):
            calls[0] += 1
            if calls[0] == at:
                raise KeyboardInterrupt
            return op(*args, **kwargs)
        return call

    names = ("rmsnorm_forward", "attention_forward", "linear_forward")
    model = model_of(numpy.with_ops(**{name: interrupted(getattr(numpy, name)) for name in names}))
    calls[0] = at                               # not yet
    held = model.new_session()
    answer = remembered(model, held, FIRST, 2)
    calls[0] = 0
    text = FIRST + answer + SECOND
    with pytest.raises(KeyboardInterrupt):
        remembered(model, held, text, 6)
    assert calls[0] == at
    assert held.tokens == (text + alone(model, text, 6))[:len(held.tokens)]
    for then in (text, OTHER):
        assert remembered(model, held, then) == alone(model, then)


def test_a_cache_that_has_grown_holds_what_the_small_one_held(backend, monkeypatch):
    monkeypatch.setattr(session, "FIRST_CAPACITY", 3)
    model = model_of(backend)
    made, held = [], model.new_session()
    make = held._make
    monkeypatch.setattr(held, "_make", lambda capacity: made.append(capacity) or make(capacity))
    text = FIRST[:2]
    for message in (SECOND, OTHER, OTHER, OTHER):
        text = text + message
        answer = remembered(model, held, text, 9)
        assert answer == alone(model, text, 9)
        text = text + answer
    assert made == [6, 12, 24, 48, 60]


def test_a_full_session_stops_or_slides_as_a_text_of_that_length_does():
    small, model = model_of(max_position_embeddings=9), model_of()
    for on_limit in ("stop", "slide"):
        with pytest.warns(ContextLimitWarning, match="its context of 9 tokens"):
            expected = alone(small, FIRST, 20, on_limit=on_limit)
        with pytest.warns(ContextLimitWarning, match="its context of 9 tokens"):
            assert remembered(model, model.new_session(9), FIRST, 20, on_limit=on_limit) == expected


def test_end_tokens_may_be_others_than_those_of_the_configuration():
    text = alone(model_of(), FIRST, 8)
    model = model_of(eos_token_id=text[0])
    assert alone(model, FIRST, 8) == text[:1]
    assert alone(model, FIRST, 8, end_tokens=()) == text
    assert alone(model, FIRST, 8, end_tokens=[text[1]]) == text[:text.index(text[1]) + 1]


def test_a_session_of_a_model_with_updates_has_them():
    model = Llama(mut.tiny_config(max_position_embeddings=60), backend="numpy", dtype="float64",
                  lora=LoraSettings(rank=2))
    mut.randomize(model.parameters)
    held = model.new_session()
    text = FIRST + remembered(model, held, FIRST)
    assert text == FIRST + alone(model, FIRST)
    plain = Llama(mut.tiny_config(max_position_embeddings=60), backend="numpy", dtype="float64")
    mut.randomize(plain.parameters)
    assert not np.allclose(model.logits([text]), plain.logits([text]))


def test_two_texts_at_a_time_are_refused():
    model = model_of()
    held = model.new_session()
    one = model.generate(FIRST, 5, session=held)
    next(one)
    next(model.generate(OTHER, 5, session=held))
    with pytest.raises(RuntimeError, match="session: expected one text at a time, got another before this one had"):
        next(one)


@pytest.mark.parametrize("capacity", [0, 61, 2.5])
def test_a_capacity_that_cannot_be_is_refused(capacity):
    with pytest.raises(ValueError, match=r"capacity: expected 1 to 60 .*, or None, got "):
        model_of().new_session(capacity)


def test_prompts_that_a_session_cannot_hold_are_refused():
    model = model_of()
    with pytest.raises(ValueError, match="expected one prompt for a session, got a list of 2"):
        model.generate([[1], [2]], session=model.new_session())
    with pytest.raises(ValueError, match="expected one prompt of at most 3 tokens, as the session holds, got 4 tokens"):
        model.generate(FIRST, session=model.new_session(3))
