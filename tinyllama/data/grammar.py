"""A grammar whose every text has a probability that is known: a small data structure, and what walks over it.

A grammar is written as text with two marks.

    [red|blue]      a choice made here, one of its options as likely as another; an option may be empty
    {pet}           a rule: chosen where it first comes, and repeated wherever it comes again

That a rule is repeated makes a text agree with itself. An option of a rule may also carry facts, further names that
stand for a text from then on, so that a pronoun agrees with a name and an ending with its trouble:

    Grammar({"start": ["{pet} wagged {its} [short|long] tail. Good {pet}!"],
             "pet": [Option("Rex", its="his"), Option("Bella", weight=3, its="her")]})

To write a text is to run to the next choice, take an option, and run on. Sampling, listing, parsing and measuring are
four ways to take options.
"""

import itertools
import math
import re
from typing import NamedTuple

from tinyllama.ops.counter_random import random_key, uniform_number


class Slot(NamedTuple):
    """A name in braces, to be replaced by what it stands for."""

    name: str


class Option:
    """One way to go on: a text, its weight among the options of its rule, and the facts that hold once it is taken.

    Raises ValueError for marks that do not match, and for a weight that is no integer of at least 1: with integers, the
    option that a random number takes is the same on every machine.
    """

    def __init__(self, text, weight=1, **facts):
        if not isinstance(weight, int) or weight < 1:
            raise ValueError(f"weight of {text!r}: expected an integer of at least 1, got {weight!r}")
        self.pieces, self.weight = pieces(text), weight
        self.facts = {name: pieces(fact) for name, fact in facts.items()}


class Choice:
    """The options at one place, and ln of their probabilities: of the weight divided by the sum of the weights."""

    def __init__(self, options):
        self.options = tuple(options)
        self.bounds = tuple(itertools.accumulate(option.weight for option in self.options))
        self.log_probabilities = tuple(math.log(option.weight / self.bounds[-1]) for option in self.options)

    def pick(self, uniform):
        """The index of an option for a number in 0 .. 1, of which each option has a part as long as its probability."""
        place = uniform * self.bounds[-1]
        return next(index for index, bound in enumerate(self.bounds) if place < bound)


def pieces(text):
    """Cut a text at its marks:  "a [red|blue] {toy}"  ->  ("a ", Choice, " ", Slot).  A tuple.

    Raises ValueError where the marks do not match.
    """
    tokens = re.findall(r"\{[^{}\[\]|]+\}|[\[\]|]|[^{}\[\]|]+", text)
    matches = "".join(tokens) == text
    found, inner, depth = [], [], 0             # inner: the texts of the options in the bracket that is open
    for token in tokens:
        depth -= token == "]"
        matches &= depth > 0 or (depth == 0 and token != "|")
        if depth == 0 and token == "]":
            found.append(Choice([Option(option) for option in inner]))
        elif depth == 0 and token == "[":
            inner = [""]
        elif depth == 1 and token == "|":
            inner.append("")
        elif depth > 0:
            inner[-1] += token
        else:
            found.append(Slot(token[1:-1]) if token[0] == "{" else token)
        depth += token == "["
    if depth != 0 or not matches:
        raise ValueError(f"expected brackets and braces that match, and | only inside brackets, got {text!r}")
    return tuple(found)


class Derivation(NamedTuple):
    """How a text came about."""

    text: str
    log_probability: float      # natural logarithm
    choices: tuple              # the index of the option taken at each choice


class State(NamedTuple):
    """Where the writing of a text stands."""

    pending: tuple | None       # what is still to be written, a chain: (piece, (piece, (piece, None)))
    memory: dict                # what the rules chosen so far, and the facts, stand for: {name: pieces}


class Grammar:
    """Texts and their probabilities, from `rules`: {name: a list of options, each a string or an `Option`}.

    A text begins with the rule "start". Raises ValueError for a name in braces that is neither a rule nor a fact.
    """

    def __init__(self, rules):
        self.rules = {}
        for name, options in rules.items():
            options = [option if isinstance(option, Option) else Option(option) for option in options]
            self.rules[name] = (Choice(options),)
            for option in options:
                option.facts = {**option.facts, name: option.pieces}    # the rule stands for what was chosen
        self.start = State((Slot("start"), None), {})
        self.meanings = _meanings(self.rules)

    def advance(self, state):
        """Write up to the next choice: (text, the choice, the state behind it); at the end the choice is None."""
        pending, memory = state
        written = []
        while pending:
            piece, pending = pending
            if type(piece) is str:
                written.append(piece)
            elif type(piece) is Slot:
                name = piece.name
                pending = _put_before(pending, memory[name] if name in memory else self.rules[name])
            else:
                return "".join(written), piece, State(pending, memory)
        return "".join(written), None, State(None, memory)

    def take(self, state, option):
        """The state after taking an option: its text comes next, and its facts are remembered."""
        memory = {**state.memory, **option.facts} if option.facts else state.memory
        return State(_put_before(state.pending, option.pieces), memory)

    def sample(self, *key):
        """The `Derivation` that belongs to some integers, such as (seed, index).

        The probability of a text is the product of those of its options, so their logarithms add up.
        """
        key = random_key(*key)
        written, log_probability, choices = [], 0.0, []
        text, choice, state = self.advance(self.start)
        while choice:
            index = choice.pick(uniform_number(key, len(choices)))
            written.append(text)
            log_probability += choice.log_probabilities[index]
            choices.append(index)
            text, choice, state = self.advance(self.take(state, choice.options[index]))
        return Derivation("".join([*written, text]), log_probability, tuple(choices))

    def derivations(self):
        """Every `Derivation` there is, one after another: at each choice, all options."""
        waiting = [("", self.start, 0.0, ())]
        while waiting:
            text, state, log_probability, choices = waiting.pop()
            more, choice, state = self.advance(state)
            if choice is None:
                yield Derivation(text + more, log_probability, choices)
            else:
                waiting += [(text + more, self.take(state, option), log_probability + log_p, (*choices, index))
                            for index, option, log_p in _backwards(choice)]

    def parse(self, text):
        """Every `Derivation` of `text`, as a list: at each choice, the options whose text goes on as `text` does.

        Raises ValueError where there is none, with the position up to which `text` could be read.
        """
        found, reached, expected = [], -1, []
        waiting = [(0, self.start, 0.0, ())]
        while waiting:
            position, state, log_probability, choices = waiting.pop()
            more, choice, state = self.advance(state)
            end = position + len(more)
            if text.startswith(more, position) and choice:
                waiting += [(end, self.take(state, option), log_probability + log_p, (*choices, index))
                            for index, option, log_p in _backwards(choice)]
            elif text.startswith(more, position) and end == len(text):
                found.append(Derivation(text, log_probability, choices))
            else:
                same = position + _common_prefix(more, text[position:])
                if same > reached:
                    reached, expected = same, []
                if same == reached:
                    expected.append(more[same - position:])
        if not found:
            start = re.search(r"\w*$", text[:reached]).start()         # of the word that went wrong
            words = [repr((text[start:reached] + more)[:20]) if more else "the end" for more in dict.fromkeys(expected)]
            words = words[:5] + ["something else"] if len(words) > 6 else words
            raise ValueError(f"position {start}: expected {' or '.join(words)}, got {text[start:start + 20]!r} "
                             f"after {text[max(start - 30, 0):start]!r}")
        return found

    def entropy(self):
        """The mean of -ln(probability) over all texts, in nats: exact, by recursion from one choice to the next.

            H(state) = Σ p · (-ln p + H(state after the option))  over its options,      H(end) = 0

        It is the entropy of derivations, which is that of texts as long as no text has two. States that differ only in
        words that are settled, or never mentioned again, have the same future; their entropy is computed once.
        """
        names, known = {}, {}

        def rest(state):
            _, choice, state = self.advance(state)
            if choice is None:
                return 0.0
            place = choice, state.pending
            if place not in names:
                names[place] = self._names_ahead(*place)
            facts = {name: state.memory[name] for name in names[place] if name in state.memory}
            key = place, frozenset((name, self._is_open(fact, facts) and fact) for name, fact in facts.items())
            if key not in known:
                known[key] = sum(math.exp(log_p) * (rest(self.take(state, option)) - log_p)
                                 for _, option, log_p in _backwards(choice))
            return known[key]

        return rest(self.start)

    def _names_ahead(self, choice, pending):
        """The names that may be mentioned from here to the end."""
        names, waiting = set(), [choice]
        while pending:
            piece, pending = pending
            waiting.append(piece)
        while waiting:
            piece = waiting.pop()
            if type(piece) is Choice:
                waiting += itertools.chain(*(option.pieces for option in piece.options))
            elif type(piece) is Slot and piece.name not in names:
                names.add(piece.name)
                waiting += self.meanings[piece.name]
        return names

    def _is_open(self, fact, facts):
        """Whether there is a choice to be made in a fact."""
        return any(type(piece) is Choice or (type(piece) is Slot and (
            piece.name not in facts or self._is_open(facts[piece.name], facts))) for piece in fact)


def _meanings(rules):
    """All pieces that each name may ever stand for, as a rule or as a fact: {name: list of pieces}."""
    meanings = {name: list(rule) for name, rule in rules.items()}
    slots, waiting = set(), list(itertools.chain(*rules.values()))
    while waiting:
        piece = waiting.pop()
        if type(piece) is Slot:
            slots.add(piece.name)
        elif type(piece) is Choice:
            for option in piece.options:
                waiting += option.pieces
                for name, fact in option.facts.items():
                    meanings.setdefault(name, []).extend(fact)
                    waiting += fact
    if slots - meanings.keys():
        raise ValueError(f"grammar: expected a rule or a fact for every name in braces, got none for "
                         f"{', '.join(sorted(slots - meanings.keys()))}")
    return meanings


def _put_before(chain, front):
    for piece in reversed(front):
        chain = piece, chain
    return chain


def _backwards(choice):
    """(index, option, ln p) of each option, the last one first: on a stack, the first one is then on top."""
    return zip(reversed(range(len(choice.options))), reversed(choice.options), reversed(choice.log_probabilities),
               strict=True)


def _common_prefix(one, other):
    """How many characters two texts have in common at their beginnings."""
    differs = (index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differs, min(len(one), len(other)))
