"""What happens when the context is full: stop or slide, each row for itself, and never without a word."""

import models_under_test as mut
import numpy as np
import pytest

from tinyllama.backends import load_backend
from tinyllama.generation import ENDED, ContextLimitWarning

LIMIT = 9
PROMPTS = [[3, 1, 3, 7], [5], [1, 4, 3, 4, 1, 0, 11, 2, 2]]
KINDS = {"rope": {}, "learned": {"positions": "learned"}, "none": {"positions": "none"},
         "window": {"sliding_window": 3}}
every_kind = pytest.mark.parametrize("kind", KINDS)


def announced():
    return pytest.warns(ContextLimitWarning, match=f"a row has filled its context of {LIMIT} tokens")


def by_hand(model, prompt, count, limit=LIMIT):
    """Greedy tokens from the whole context each time; when it is full, only its last half is kept."""
    context, tokens = list(prompt), []
    for _ in range(count):
        token = int(np.argmax(model.logits([context])[0, -1]))
        tokens.append(token)
        was_full = len(context) == limit
        context.append(token)
        if was_full:
            context = context[-max(limit // 2, 1):]
    return tokens


@every_kind
def test_stopping_yields_what_the_context_allows(kind):
    model = mut.tiny_model(**KINDS[kind])
    with announced():
        tokens = list(model.generate([3, 1], 50, temperature=0))
    assert tokens == by_hand(model, [3, 1], LIMIT - 2 + 1)      # the last one is drawn from a full context


@every_kind
@pytest.mark.parametrize("prompt", PROMPTS, ids=len)
def test_sliding_goes_on_with_the_last_half(kind, prompt):
    model = mut.tiny_model(**KINDS[kind])
    with announced() as warned:
        tokens = list(model.generate(prompt, 30, temperature=0, on_limit="slide"))
    assert tokens == by_hand(model, prompt, 30)
    # The context fills from the prompt, and from then on again after as many tokens as were forgotten, and one.
    assert len(warned) == 1 + (30 - 2 - (LIMIT - len(prompt))) // (LIMIT - LIMIT // 2 + 1)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_sliding_in_the_smallest_contexts(limit):
    model = mut.tiny_model(max_position_embeddings=limit)
    with pytest.warns(ContextLimitWarning):
        tokens = list(model.generate([3], 10, temperature=0, on_limit="slide"))
    assert tokens == by_hand(model, [3], 10, limit)


def test_the_rows_of_a_batch_stop_separately():
    model = mut.tiny_model()
    with announced() as warned:
        together = np.stack(list(model.generate(PROMPTS, 50, temperature=0)))
    for row, prompt in enumerate(PROMPTS):
        alone = by_hand(model, prompt, LIMIT - len(prompt) + 1)
        assert together[:, row].tolist() == alone + [ENDED] * (len(together) - len(alone))
    assert len(together) == LIMIT - 1 + 1
    assert len(warned) == 3                                     # they fill up at three different times


@every_kind
def test_the_rows_of_a_batch_slide_separately(kind):
    model = mut.tiny_model(**KINDS[kind])
    with announced():
        together = np.stack(list(model.generate(PROMPTS, 25, temperature=0, on_limit="slide")))
    for row, prompt in enumerate(PROMPTS):
        assert together[:, row].tolist() == by_hand(model, prompt, 25), row


def test_sampling_while_sliding_does_not_depend_on_the_neighbours():
    model = mut.tiny_model()
    with announced():
        one, other = (np.stack(list(model.generate([PROMPTS[0], neighbour], 20, seed=3, on_limit="slide")))
                      for neighbour in ([1, 2], PROMPTS[2]))
    np.testing.assert_array_equal(one[:, 0], other[:, 0])


def test_a_row_that_ended_does_not_slide_and_does_not_disturb():
    def ends_the_first_row_at_once(logits, **settings):
        tokens = np.argmax(logits[:, 1:], axis=-1) + 1
        if len(tokens) > 1:
            tokens[0] = 0
        return tokens

    backend = load_backend("numpy").with_ops(sample=ends_the_first_row_at_once)
    model = mut.tiny_model(backend=backend, eos_token_id=0)
    for first in (PROMPTS[2], PROMPTS[0]):                      # with its own context full, and not
        with announced():
            together = np.stack(list(model.generate([first, PROMPTS[1]], 20, on_limit="slide")))
        with announced():
            alone = list(model.generate(PROMPTS[1], 20, on_limit="slide"))
        assert together[:, 0].tolist() == [0] + [ENDED] * 19
        assert together[:, 1].tolist() == alone


def test_nothing_is_announced_where_the_context_is_just_long_enough():
    # Warnings are errors in these tests.
    model = mut.tiny_model()
    assert len(list(model.generate([3, 1], LIMIT - 2 + 1))) == 8
    assert len(list(model.generate([3, 1], LIMIT - 2 + 1, on_limit="slide"))) == 8
    assert len(list(model.generate(PROMPTS[2], 1))) == 1


@pytest.mark.parametrize("on_limit, says", [("stop", "it stops here"),
                                            ("slide", "it goes on with the last half of its tokens")])
def test_the_warning_says_what_is_done(on_limit, says):
    with pytest.warns(ContextLimitWarning, match=says):
        list(mut.tiny_model().generate(PROMPTS[2], 2, on_limit=on_limit))


def test_the_tokens_before_the_limit_come_before_the_warning():
    tokens = mut.tiny_model().generate(PROMPTS[2], 5)
    next(tokens)
    with announced():
        assert list(tokens) == []
