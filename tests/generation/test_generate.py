"""Generation: which tokens come out, when it ends, and that the rows of a batch do not know of one another."""

import itertools

import models_under_test as mut
import numpy as np
import pytest

from tinyllama.backends import load_backend
from tinyllama.generation import ENDED, Sampling, generate
from tinyllama.ops import OPS
from tinyllama.ops.counter_random import uniform_number

CONTEXT = {"max_position_embeddings": 24}
KINDS = {
    "rope": {}, "MHA": {"num_key_value_heads": 4}, "MQA": {"num_key_value_heads": 1}, "window": {"sliding_window": 3},
    "learned": {"positions": "learned"}, "sinusoidal": {"positions": "sinusoidal"}, "none": {"positions": "none"},
    "tied and shared": {"tie_word_embeddings": True, "num_hidden_layers": 3, "num_unique_layers": 2},
}
SAMPLINGS = {
    "greedy": {"temperature": 0}, "plain": {}, "hot": {"temperature": 2.5, "seed": 3}, "top_k": {"top_k": 4, "seed": 1},
    "top_p": {"top_p": 0.7, "seed": 2}, "min_p": {"min_p": 0.2, "seed": 5},
    "all": {"temperature": 1.5, "top_k": 8, "top_p": 0.9, "min_p": 0.05, "seed": 9},
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_sampling = pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
PROMPTS = [[3, 1, 3, 7], [5], [1, 4, 3, 4, 1, 0, 11], [12, 2]]


def make(**changes):
    return mut.tiny_model(**CONTEXT | changes)


def without_a_cache(model, prompt, count, *, row=0, seed=0, **settings):
    """The tokens that follow a prompt, every one from the logits of the whole text so far."""
    ids = list(prompt)
    for t in range(count):
        uniform = np.array([[uniform_number(seed, t, row)]])
        token = OPS["sample"](model.logits([ids])[:, -1], uniform=uniform, **settings)
        ids.append(int(token[0]))
    return ids[len(prompt):]


# ---- the tokens

@every_kind
@every_sampling
def test_tokens_are_those_without_a_cache(kind, sampling):
    model = make(**KINDS[kind])
    for prompt in PROMPTS[:2]:
        assert list(model.generate(prompt, 12, **sampling)) == without_a_cache(model, prompt, 12, **sampling)


@every_kind
@every_sampling
def test_prompts_of_unequal_length_get_what_they_get_alone(kind, sampling):
    # Row b draws its random numbers from (seed, step, b), whatever its neighbours are.
    model = make(**KINDS[kind])
    together = np.stack(list(model.generate(PROMPTS, 10, **sampling)))          # (steps, B)
    assert together.shape == (10, 4)
    for row, prompt in enumerate(PROMPTS):
        assert together[:, row].tolist() == without_a_cache(model, prompt, 10, row=row, **sampling)


@every_sampling
def test_a_single_prompt_is_a_batch_of_one(sampling):
    model = make()
    single = list(model.generate(PROMPTS[0], 8, **sampling))
    batch = list(model.generate([PROMPTS[0]], 8, **sampling))
    assert single == [int(tokens[0]) for tokens in batch]
    assert all(type(token) is int for token in single)
    assert all(tokens.shape == (1,) and tokens.dtype.kind == "i" for tokens in batch)


def test_neighbours_do_not_matter():
    model = make()
    texts = [np.stack(list(model.generate([first, PROMPTS[0], last], 8, seed=4)))[:, 1].tolist()
             for first, last in (([1], [2, 3]), ([12] * 9, [5]), (PROMPTS[0], PROMPTS[0]))]
    assert texts[0] == texts[1] == texts[2]


def test_equal_prompts_in_a_batch_get_different_texts():
    texts = np.stack(list(make().generate([PROMPTS[0]] * 3, 12)))
    assert len({tuple(texts[:, row]) for row in range(3)}) == 3


def test_temperature_zero_takes_the_most_probable_token():
    model, ids = make(), list(PROMPTS[0])
    for token in model.generate(PROMPTS[0], 10, temperature=0):
        assert token == np.argmax(model.logits([ids])[0, -1])
        ids.append(token)


def test_temperature_zero_does_not_depend_on_the_seed():
    model = make()
    assert list(model.generate([3], 8, temperature=0, seed=1)) == list(model.generate([3], 8, temperature=0, seed=2))


def test_the_seed_decides_the_text():
    model = make()
    texts = {seed: tuple(model.generate(PROMPTS[0], 12, seed=seed)) for seed in range(5)}
    assert len(set(texts.values())) == 5
    for seed, text in texts.items():
        assert tuple(model.generate(PROMPTS[0], 12, seed=seed)) == text


def test_a_seed_may_come_from_numpy():
    model = make()
    assert list(model.generate([3], 5, seed=np.int64(7))) == list(model.generate([3], 5, seed=7))


def test_the_settings_reach_the_sampler():
    calls = []
    model = make(backend=mut.spying(calls, "sample"))
    list(model.generate([3], 2, temperature=0.7, top_k=5, top_p=0.8, min_p=0.1, seed=6))
    list(model.generate([3], 1, temperature=0))
    settings = [kwargs for _, _, kwargs, _ in calls]
    uniforms = [s.pop("uniform") for s in settings]
    assert settings[0] == settings[1] == {"temperature": 0.7, "top_k": 5, "top_p": 0.8, "min_p": 0.1}
    assert [float(uniform[0, 0]) for uniform in uniforms[:2]] == [uniform_number(6, 0, 0), uniform_number(6, 1, 0)]
    assert uniforms[2] is None
    assert settings[2]["temperature"] == 0


def test_sampled_tokens_have_the_probabilities_of_the_model():
    model = make()
    logits = model.logits([[3, 1]])[0, -1]
    p = np.exp(logits - logits.max())
    p /= p.sum()
    draws = np.concatenate(list(model.generate([[3, 1]] * 4000, 1)))
    frequencies = np.bincount(draws, minlength=13) / len(draws)
    np.testing.assert_allclose(frequencies, p, atol=4 * np.sqrt(0.25 / len(draws)))


# ---- the end

def test_generation_ends_after_the_tokens_asked_for():
    for count in (0, 1, 5):
        assert len(list(make().generate([3], count))) == count
        assert len(list(make().generate([[3], [4, 5]], count))) == count


def ending(ends, end_token=0, **changes):
    """A greedy model that draws the end token in row r at step ends[r], and at no other time. Both 0 and 13 end."""
    steps = itertools.count()

    def sample(logits, **settings):
        t = next(steps)
        tokens = np.argmax(logits[:, 1:-1], axis=-1) + 1
        return np.where([ends.get(row) == t for row in range(len(logits))], end_token, tokens)

    return make(backend=load_backend("numpy").with_ops(sample=sample), eos_token_id=[0, 13], vocab_size=14, **changes)


@pytest.mark.parametrize("end_token", [0, 13])
def test_a_text_ends_after_an_end_token_which_is_still_yielded(end_token):
    text = list(ending({0: 3}, end_token).generate([3, 1], 10))
    assert text == [*list(ending({}).generate([3, 1], 10))[:3], end_token]


def test_the_end_token_of_the_configuration_ends_the_text():
    text = list(make().generate(PROMPTS[0], 10))
    last = next(t for t in range(1, 10) if text[t] not in text[:t])
    for eos in (text[last], [text[last]], (text[last], *({*range(13)} - {*text}))):
        assert list(make(eos_token_id=eos).generate(PROMPTS[0], 10)) == text[:last + 1]


def test_without_an_end_token_every_token_goes_on():
    text = list(make(eos_token_id=None).generate(PROMPTS[0], 20, temperature=3.0))
    assert len(text) == 20


def test_an_end_token_in_the_prompt_ends_nothing():
    assert len(list(ending({}).generate([3, 0, 13], 6))) == 6


@every_kind
@pytest.mark.parametrize("ends", [{0: 0}, {0: 2, 2: 0}, {1: 3, 2: 3, 3: 1}, {0: 0, 1: 0, 2: 0}], ids=str)
def test_rows_that_ended_yield_minus_one_and_leave_the_others_alone(kind, ends):
    together = np.stack(list(ending(ends, **KINDS[kind]).generate(PROMPTS, 8)))
    assert together.shape == (8, 4)
    for row, prompt in enumerate(PROMPTS):
        alone = list(ending({0: ends[row]} if row in ends else {}, **KINDS[kind]).generate(prompt, 8))
        assert together[:, row].tolist() == alone + [ENDED] * (8 - len(alone))
    assert ENDED == -1


def test_a_batch_ends_with_its_last_row():
    tokens = np.stack(list(ending({0: 1, 1: 4, 2: 2, 3: 0}).generate(PROMPTS, 20)))
    assert len(tokens) == 5
    assert [tokens[end, row] for row, end in enumerate((1, 4, 2, 0))] == [0, 0, 0, 0]
    assert np.count_nonzero(tokens == ENDED) == 3 + 0 + 2 + 4


def test_the_longest_prompt_fills_the_context_and_may_end_there():
    # Row 0 ends with its context full; its padding must go nowhere in the steps of the others.
    full = [1 + i % 12 for i in range(24)]
    together = np.stack(list(ending({0: 0}).generate([full, PROMPTS[0]], 8)))
    assert together[:, 0].tolist() == [0] + [ENDED] * 7
    assert together[:, 1].tolist() == list(ending({}).generate(PROMPTS[0], 8))


# ---- streaming

def test_each_token_comes_as_soon_as_it_is_drawn():
    calls = []
    model = make(backend=mut.spying(calls, "embedding_forward", "sample"))
    tokens = model.generate([3, 1], 10)
    assert calls == []                                          # nothing is computed before it is asked for
    for count in range(1, 5):
        next(tokens)
        assert [name for name, *_ in calls] == ["embedding_forward", "sample"] * count
    tokens.close()
    assert len(calls) == 8


def test_two_generations_do_not_disturb_each_other():
    model = make()
    pairs = list(zip(model.generate([3, 1], 8, seed=1), model.generate([5], 8, seed=2), strict=True))
    assert [a for a, _ in pairs] == list(model.generate([3, 1], 8, seed=1))
    assert [b for _, b in pairs] == list(model.generate([5], 8, seed=2))


def test_new_weights_are_used_from_the_next_generation_on():
    model = make()
    before = list(model.generate([3, 1], 8))
    model.parameters.trainable *= -1.0
    after = list(model.generate([3, 1], 8))
    assert after == without_a_cache(model, [3, 1], 8)
    assert after != before


# ---- the loop itself, which knows a step function and no model

def scripted(script, log):
    """new_step for `generate`: step t makes token script[t][row] certain, and notes what it was given."""
    steps = iter(script)

    def step(ids, counts):
        log.append((ids.tolist(), counts.tolist()))
        return np.eye(10)[next(steps)]
    return lambda: step


def run(script, prompts, *, end_tokens=(9,), context_limit=100):
    log = []
    tokens = generate(scripted(script, log), prompts, backend=load_backend("numpy"), max_new_tokens=len(script),
                      context_limit=context_limit, end_tokens=end_tokens, sampling=Sampling(temperature=0),
                      on_limit="stop")
    return [token.tolist() for token in tokens], log


def test_the_loop_feeds_prompts_first_and_then_the_new_tokens():
    tokens, log = run([[1, 2], [3, 4], [5, 6]], [[7, 7, 7], [8]])
    assert tokens == [[1, 2], [3, 4], [5, 6]]
    assert log == [([[7, 7, 7], [8, 0, 0]], [3, 1]), ([[1], [2]], [1, 1]), ([[3], [4]], [1, 1])]


def test_the_loop_feeds_nothing_to_a_row_that_has_ended():
    tokens, log = run([[9, 2], [3, 4], [3, 9], [1, 1]], [[7], [8]])
    assert tokens == [[9, 2], [ENDED, 4], [ENDED, 9]]
    assert [counts for _, counts in log] == [[1, 1], [0, 1], [0, 1]]
    assert [ids[1] for ids, _ in log] == [[8], [2], [4]]


def test_the_loop_stops_at_any_of_several_end_tokens():
    assert run([[1], [4], [2]], [[7]], end_tokens=(9, 4))[0] == [[1], [4]]
    assert run([[1], [4], [9]], [[7]], end_tokens=())[0] == [[1], [4], [9]]
