import itertools
import math
import random

import pytest

from tinyllama.data import grammar
from tinyllama.data.grammar import Choice, Grammar, Option, Slot, pieces

# Small enough to write down every text, with all that the notation has: weights, facts, facts that hold choices, rules
# within rules, options without text, choices within choices.
RULES = {
    "start": ["{pet} wagged {its} [short|long] tail{why}.{praise}"],
    "pet": [Option("Rex", its="his", food="a [big|small] bone", trick="sat"),
            Option("Bella", weight=3, its="her", food="{fish}", trick="{jump}")],
    "fish": ["cod", Option("[red|pink] salmon", weight=2)],
    "jump": ["jumped [once|twice]"],
    "why": [Option("", weight=2), " for {food}"],
    "praise": ["", Option(" [Good|[Dear|Old]] {pet}!", weight=5), " {pet} {trick}."],
}
SMALL = Grammar(RULES)


def test_a_text_is_cut_at_its_marks():
    before, choice, between, slot = pieces("a [red|[very |]blue|] {toy}")
    assert (before, between, slot) == ("a ", " ", Slot("toy"))
    assert isinstance(choice, Choice)
    red, blue, empty = choice.options
    assert (red.pieces, blue.pieces[1], empty.pieces) == (("red",), "blue", ())
    assert [option.pieces for option in blue.pieces[0].options] == [("very ",), ()]
    assert pieces("") == ()


@pytest.mark.parametrize("text", ["[a|b", "a]", "a|b", "[a]]", "|a", "{a", "a}", "{}", "{a|b}", "[{a]}", "[a|b]|c"])
def test_marks_that_do_not_match_are_refused(text):
    with pytest.raises(ValueError, match="expected brackets and braces that match"):
        Option(text)


@pytest.mark.parametrize("weight", [0, -1, 0.5, "2"])
def test_a_weight_is_a_positive_integer(weight):
    with pytest.raises(ValueError, match=f"weight of 'a': expected an integer of at least 1, got {weight!r}"):
        Option("a", weight=weight)


@pytest.mark.parametrize("rules", [
    {"start": ["{cat}"]},
    {"start": ["a [b|{cat}]"]},
    {"start": ["{dog}"], "dog": [Option("Rex", its="{cat}")]},
])
def test_a_name_that_nothing_stands_for_is_refused(rules):
    with pytest.raises(ValueError, match="expected a rule or a fact for every name in braces, got none for cat"):
        Grammar(rules)


def test_every_text_of_the_small_grammar_is_listed_with_its_probability():
    texts = {derivation.text: math.exp(derivation.log_probability) for derivation in SMALL.derivations()}
    # By hand: 2 tails; Rex: 3 reasons (none, 2 bones), 5 kinds of praise; Bella: 4 reasons, 6 kinds of praise.
    assert len(texts) == 2 * (3 * 5 + 4 * 6)
    assert sum(texts.values()) == pytest.approx(1, abs=1e-12)
    assert texts["Rex wagged his short tail."] == pytest.approx(1/4 * 1/2 * 2/3 * 1/7)
    assert texts["Bella wagged her long tail for pink salmon. Old Bella!"] == pytest.approx(
        3/4 * 1/2 * 1/3 * (2/3 * 1/2) * 5/7 * (1/2 * 1/2))
    assert texts["Bella wagged her long tail for cod. Bella jumped twice."] == pytest.approx(
        3/4 * 1/2 * 1/3 * 1/3 * 1/7 * 1/2)


def test_every_text_of_the_small_grammar_has_one_derivation_which_the_parser_finds():
    derivations = list(SMALL.derivations())
    assert len({derivation.text for derivation in derivations}) == len(derivations)
    for derivation in derivations:
        assert SMALL.parse(derivation.text) == [derivation]


def test_the_derivations_come_in_the_order_of_their_options():
    choices = [derivation.choices for derivation in SMALL.derivations()]
    assert choices == sorted(choices)


def test_the_entropy_is_that_of_the_listed_texts():
    expected = -sum(math.exp(d.log_probability) * d.log_probability for d in SMALL.derivations())
    assert SMALL.entropy() == pytest.approx(expected, rel=1e-12)


def test_the_entropy_tells_states_apart_that_differ_in_what_is_still_open():
    # After the first word both pets have the same text ahead, "{trick}", but not the same number of tricks.
    rules = {"start": ["{pet} [sat and|ran and] {trick}"], "two": ["rolled", "slept"],
             "pet": [Option("Rex", trick="slept"), Option("Ada", trick="{two}"), Option("Max", trick="[a|b|c]")]}
    assert Grammar(rules).entropy() == pytest.approx(math.log(3) + math.log(2) + (math.log(2) + math.log(3)) / 3)
    # A rule may have been chosen already or not.
    rules = {"start": ["[{pet}|nobody] [saw|met] {pet}"], "pet": ["Rex", "Ada"]}
    assert Grammar(rules).entropy() == pytest.approx(3 * math.log(2))


def test_the_last_fact_of_a_name_holds():
    told = Grammar({"start": ["{he}{she}{it}"], "he": [Option("a", it="old")], "she": [Option("b", it="new")]})
    assert [derivation.text for derivation in told.derivations()] == ["abnew"]


def test_samples_follow_the_probabilities():
    probabilities = {d.text: math.exp(d.log_probability) for d in SMALL.derivations()}
    count = 20_000
    samples = [SMALL.sample(3, index) for index in range(count)]
    chi_square = 0.0
    for text, probability in probabilities.items():
        seen = sum(sample.text == text for sample in samples)
        chi_square += (seen - count * probability) ** 2 / (count * probability)
    assert chi_square < 122                 # exceeded once in a thousand, with 77 degrees of freedom


def test_a_sample_is_a_function_of_its_key():
    assert SMALL.sample(3, 5) == SMALL.sample(3, 5)
    assert len({SMALL.sample(*key).choices for key in itertools.product(range(8), range(8))}) > 20
    assert SMALL.sample(1, 2) != SMALL.sample(2, 1)


def test_a_number_between_0_and_1_picks_by_weight():
    (choice,) = Grammar({"start": [Option("a", weight=2), "b", Option("c", weight=5)]}).rules["start"]
    assert [choice.pick(uniform) for uniform in (0, 0.249, 0.25, 0.374, 0.375, 1 - 2**-53)] == [0, 0, 1, 1, 2, 2]
    assert [math.exp(log_p) for log_p in choice.log_probabilities] == pytest.approx([2/8, 1/8, 5/8])


@pytest.mark.parametrize(("text", "message"), [
    ("", r"position 0: expected 'Rex wagged his ' or 'Bella wagged her ', got ''"),
    ("Rex wagged her short tail.", r"position 11: expected 'his ', got 'her short tail.' after 'Rex wagged '"),
    ("Rex wagged his tail.", r"position 15: expected 'short tail' or 'long tail', got 'tail.'"),
    ("Rex wagged his short tail", r"position 21: expected 'tail.' or 'tail for .*, got 'tail'"),
    ("Rex wagged his short tail. ", r"position 27: expected .*'Good Rex!'.*, got ''"),
    ("Rex wagged his short tail. Good Bella!", r"position 32: expected 'Rex!', got 'Bella!'"),
    ("Rex wagged his short tail. Good Rex! ", r"position 36: expected the end, got ' '"),
    ("Rex wagged his short tail. Good Rex!!", r"position 36: expected the end, got '!'"),
    (" Rex wagged his short tail.", r"position 0: expected"),
    ("Rex wagged his short tail for cod.", r"position 30: expected 'a ', got 'cod.'"),
    ("Rex wagged his short tail. Rex jumped once.", r"position 31: expected 'sat.', got 'jumped once.'"),
])
def test_what_is_no_text_of_the_grammar_is_refused_with_the_position(text, message):
    with pytest.raises(ValueError, match=message):
        SMALL.parse(text)


def test_any_change_of_a_text_gives_another_text_or_is_refused():
    known = {derivation.text: derivation for derivation in SMALL.derivations()}
    drawn = random.Random(0)
    for text in known:
        for _ in range(20):
            place = drawn.randrange(len(text))
            changed = text[:place] + drawn.choice(["", "x", " ", "."]) + text[place + drawn.randrange(2):]
            if changed in known:
                assert SMALL.parse(changed) == [known[changed]]
            else:
                with pytest.raises(ValueError, match="position"):
                    SMALL.parse(changed)


def test_a_text_with_two_derivations_gets_both():
    double = Grammar({"start": ["[a|ab][b|]", "c"]})
    assert [derivation.choices for derivation in double.parse("ab")] == [(0, 0, 0), (0, 1, 1)]
    assert len(double.parse("abb")) == 1


def test_a_message_names_few_of_many_possibilities():
    many = Grammar({"start": [f"[{'|'.join('abcdefghij')}]"]})
    with pytest.raises(ValueError, match="position 0: expected 'a' or 'b' or 'c' or 'd' or 'e' or something else, got"):
        many.parse("x")


def test_a_walk_leaves_the_rules_as_they_were():
    rules = {"start": ["{pet} and {pet}"], "pet": [Option("Rex", its="his"), "Ada"]}
    for _ in range(2):
        small = Grammar(rules)
        assert sorted(derivation.text for derivation in small.derivations()) == ["Ada and Ada", "Rex and Rex"]
    assert small.sample(0).text in ("Ada and Ada", "Rex and Rex")
    assert grammar.Grammar is Grammar
