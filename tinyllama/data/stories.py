"""Short stories for children, without end, whose exact probability is known.

They are drawn from a grammar written by hand (`tinyllama.data.story_grammar`). No model of them can have a lower mean
loss than `entropy_per_token`: below it there is nothing left to learn, only chance.
"""

import itertools
from functools import cache

from tinyllama.data.grammar import Grammar
from tinyllama.data.story_grammar import STORY


@cache
def story_grammar():
    """The `Grammar` of the stories."""
    return Grammar(STORY)


def story(seed, index):
    """Story number `index` of `seed`, two integers: a `Derivation` (text, log_probability, choices).

    It depends on nothing else, so that stories can be drawn in any order, and on any machine they are the same.
    """
    return story_grammar().sample(seed, index)


def stories(seed):
    """The stories of `seed`, from number 0 on, without end."""
    return (story(seed, index) for index in itertools.count())


def parse_story(text):
    """How `text` comes about as a story: the same `Derivation` that `story` gave with it.

    Raises ValueError where it is no story, with the position where it stops being one, what was expected and what came.
    """
    (derivation,) = story_grammar().parse(text)         # one at most: a story's next words tell which option was taken
    return derivation


def is_story(text):
    """Whether the grammar can write `text`."""
    try:
        parse_story(text)
    except ValueError:
        return False
    return True


@cache
def story_entropy():
    """The entropy of a story in nats, exact: the mean of -log_probability over all stories."""
    return story_grammar().entropy()


def entropy_per_token(tokenizer, *, sample=2000, seed=0):
    """The lowest mean loss that a model of the stories can have, in nats per target:

        H(story) / E[tokens of a story + 1]

    The end of a story is a target too, hence the 1. The entropy is exact; the mean length is that of the first `sample`
    stories of `seed`, whose standard error is about 0.2 % at 2,000. tokenizer: has `encode(text)`, a list of tokens.

    The mean of many stories' own -log_probability, divided by their targets, is near this number, and for these stories
    it is the exact bound. Raises ValueError where `sample` is below 1.
    """
    if sample < 1:
        raise ValueError(f"sample: expected at least 1, got {sample}")
    targets = sum(len(tokenizer.encode(story(seed, index).text)) + 1 for index in range(sample))
    return story_entropy() / (targets / sample)
