import itertools
import math
import re
import statistics

import pytest

from tinyllama.data.grammar import Choice, Grammar, Option
from tinyllama.data.stories import (
    entropy_per_token,
    is_story,
    parse_story,
    stories,
    story,
    story_entropy,
    story_grammar,
)
from tinyllama.data.story_grammar import STORY

GOLDEN = [
    "One warm afternoon a brave boy named Sam hurried to the market. He planned to buy a red hat. But the "
    "red hat cost one coin too much. Sam looked, but found only dust. He was worried. Luckily a kind "
    "queen gave him one. Before long he held it at last. Sam whistled all the way home.",
    "One grey day a stubborn boy named Leo walked to the market with his friend. He longed to buy a black "
    "balloon. Sadly the black balloon cost one coin too much. Then a kind farmer gave him one. And so he "
    "had it at last. He often remembered that day.",
    "One calm morning a stubborn boy named Sam hurried to the school. He wanted to play the bell in the "
    "concert. That day the bell made no sound. Sam pushed it, but nothing came. Later he found a feather "
    "inside. Now everyone cheered.",
]
GOLDEN_LOG_PROBABILITY = -37.20970640312265

MANY = [story(11, index) for index in range(5000)]
GIRLS, BOYS = ([option.pieces[0] for option in story_grammar().rules[name][0].options]
               for name in ("girl's name", "boy's name"))


def words(text):
    return re.findall(r"[A-Za-z']+", text)


def choices_on_the_way(derivation):
    """(state, choice, option taken) for each choice of a story."""
    grammar = story_grammar()
    _, choice, state = grammar.advance(grammar.start)
    for index in derivation.choices:
        option = choice.options[index]
        yield state, choice, option
        _, choice, state = grammar.advance(grammar.take(state, option))


# ---- the same everywhere

def test_these_are_the_stories_that_earlier_runs_saw():
    # If they change, losses on stories are not comparable with those of earlier runs.
    assert [story(*key).text for key in ((0, 0), (0, 1), (1, 0))] == GOLDEN
    assert story(0, 0).log_probability == pytest.approx(GOLDEN_LOG_PROBABILITY, abs=1e-12)


def test_a_story_is_a_function_of_seed_and_number():
    in_order = list(itertools.islice(stories(4), 50))
    assert [story(4, index) for index in reversed(range(50))] == in_order[::-1]
    assert list(itertools.islice(stories(4), 50)) == in_order
    assert not {told.text for told in in_order} & {told.text for told in itertools.islice(stories(5), 50)}
    assert is_story(story(-3, 10**15).text)


def test_stories_do_not_repeat():
    # With an entropy near 40 nats, two equal stories among 20,000 have a chance far below one in a million.
    texts = {told.text for told in MANY} | {story(11, index).text for index in range(len(MANY), 20_000)}
    assert len(texts) == 20_000


# ---- probabilities

def test_a_probability_is_the_product_of_the_options_taken():
    for told in MANY[:200]:
        shares = [option.weight / sum(other.weight for other in choice.options)
                  for _, choice, option in choices_on_the_way(told)]
        assert told.log_probability == pytest.approx(math.log(math.prod(shares)), abs=1e-9)
        assert len(shares) == len(told.choices)


def test_the_parser_recovers_derivation_and_probability_from_the_text_alone():
    for told in MANY[:3000]:
        assert story_grammar().parse(told.text) == [told]
    assert parse_story(MANY[0].text) == MANY[0]


def test_the_next_words_always_tell_which_option_was_taken():
    """Why no text has two derivations: at no choice does one option begin as another one does."""
    grammar = story_grammar()

    def beginnings(state):
        text, choice, state = grammar.advance(state)
        if choice is None:
            return [text + "\0"]        # the end of a story can be told from any word
        if text:
            return [text]
        return [text for option in choice.options for text in beginnings(grammar.take(state, option))]

    for told in MANY[:1500]:
        for state, choice, _ in choices_on_the_way(told):
            found = [(number, text) for number, option in enumerate(choice.options)
                     for text in beginnings(grammar.take(state, option))]
            found.sort(key=lambda pair: pair[1])        # what begins alike comes side by side
            for (number, text), (next_number, next_text) in itertools.pairwise(found):
                assert number == next_number or not next_text.startswith(text), (text, next_text)


def test_the_entropy_is_the_mean_of_the_samples():
    surprises = [-told.log_probability for told in MANY]
    standard_error = statistics.stdev(surprises) / math.sqrt(len(surprises))
    assert standard_error < 0.06
    assert abs(statistics.mean(surprises) - story_entropy()) < 3 * standard_error
    assert story_entropy() > 30


def test_the_entropy_of_a_part_that_can_be_listed_is_that_of_its_texts():
    for rule, more in (("kite trouble", {"name": "Mia", "he": "she", "He": "She", "him": "her"}),
                       ("closing", {"name": "Mia", "he": "she", "He": "She"})):
        part = {**STORY, "start": [Option("{" + rule + "}")], **{name: [text] for name, text in more.items()}}
        listed = list(Grammar(part).derivations())
        assert len({derivation.text for derivation in listed}) == len(listed) > 40
        assert sum(math.exp(derivation.log_probability) for derivation in listed) == pytest.approx(1)
        expected = -sum(math.exp(derivation.log_probability) * derivation.log_probability for derivation in listed)
        assert Grammar(part).entropy() == pytest.approx(expected, rel=1e-12)


class Words:
    def encode(self, text):
        return re.findall(r" ?[A-Za-z']+|[.,!]", text)


def test_the_entropy_per_token_counts_the_end_of_a_story():
    lengths = [len(Words().encode(story(0, index).text)) for index in range(2000)]
    assert entropy_per_token(Words()) == pytest.approx(story_entropy() / (statistics.mean(lengths) + 1))
    assert entropy_per_token(Words(), sample=1, seed=2) == pytest.approx(
        story_entropy() / (len(Words().encode(story(2, 0).text)) + 1))
    assert entropy_per_token(Words()) > 0.5
    with pytest.raises(ValueError, match="sample: expected at least 1, got 0"):
        entropy_per_token(Words(), sample=0)


# ---- what is no story

@pytest.mark.parametrize("change", [
    lambda text: "",
    lambda text: text[:-1],
    lambda text: text + " ",
    lambda text: text + " The end.",
    lambda text: " " + text,
    lambda text: text[:len(text) // 2],
    lambda text: text + " " + text,
    lambda text: text.replace(".", "", 1),
    lambda text: text.replace(" a ", " the ", 1),
    lambda text: text.lower(),
    lambda text: ". ".join(reversed(text.split(". "))),
])
def test_a_changed_story_is_refused(change):
    for told in MANY[:100]:
        assert is_story(told.text)
        assert not is_story(change(told.text))


def test_a_pronoun_that_does_not_agree_is_refused():
    other = {"he": "she", "He": "She", "his": "her", "him": "her", "she": "he", "She": "He", "her": "his",
             "boy": "girl", "girl": "boy"}
    tried = 0
    for told in MANY[:300]:
        for match in re.finditer(r"\b(he|He|his|him|she|She|her|boy|girl)\b", told.text):
            changed = told.text[:match.start()] + other[match[0]] + told.text[match.end():]
            assert not is_story(changed), changed
            tried += 1
    assert tried > 1000


def test_a_name_that_changes_is_refused():
    tried = 0
    for told in MANY[:300]:
        name = next(name for name in GIRLS + BOYS if f"named {name}" in told.text)
        other = {**dict(zip(GIRLS, GIRLS[1:] + GIRLS[:1], strict=True)),
                 **dict(zip(BOYS, BOYS[1:] + BOYS[:1], strict=True))}[name]
        places = [match.start() for match in re.finditer(rf"\b{name}\b", told.text)]
        assert is_story(re.sub(rf"\b{name}\b", other, told.text))
        for place in places if len(places) > 1 else []:
            assert not is_story(told.text[:place] + other + told.text[place + len(name):])
            tried += 1
    assert tried > 200


def test_a_refusal_names_the_place_what_was_expected_and_what_came():
    told = next(told for told in MANY if told.text.startswith("One ") and "girl named" in told.text)
    with pytest.raises(ValueError, match=r"position \d+: expected 'She ', got 'He .*' after '"):
        parse_story(told.text.replace("She ", "He ", 1))


# ---- people, wishes, troubles and endings that follow from one another

def test_at_least_300_words_and_each_of_them_occurs():
    written, waiting = set(), [choice for (choice,) in story_grammar().rules.values()]
    while waiting:
        for option in waiting.pop().options:
            for piece in itertools.chain(option.pieces, *option.facts.values()):
                if isinstance(piece, str):
                    written |= set(words(piece))
                elif isinstance(piece, Choice):
                    waiting.append(piece)
    told = {word for told in MANY for word in words(told.text)}
    assert told == written
    assert len({word.lower() for word in told}) >= 300


def test_every_option_is_reached():
    met, taken = {}, set()
    for told in MANY:
        for _, choice, option in choices_on_the_way(told):
            met[id(choice)] = choice
            taken.add(id(option))
    assert all(id(option) in taken for choice in met.values() for option in choice.options)
    assert {id(choice) for (choice,) in story_grammar().rules.values()} <= met.keys() | {
        id(story_grammar().rules["start"][0])}


def test_stories_are_short():
    lengths = [len(told.text.split()) for told in MANY]
    assert min(lengths) >= 30 and max(lengths) <= 75
    assert 45 <= statistics.mean(lengths) <= 55


def test_names_and_pronouns_agree():
    for told in MANY:
        child = re.search(r"\b(girl|boy) named (\w+)", told.text)
        assert child[2] in {"girl": GIRLS, "boy": BOYS}[child[1]]
        assert {name for name in GIRLS + BOYS if name in words(told.text)} == {child[2]}
        pronouns = {word.lower() for word in words(told.text)} & {"he", "she", "his", "her", "him", "boy", "girl"}
        assert pronouns <= ({"she", "her", "girl"} if child[1] == "girl" else {"he", "his", "him", "boy"})


WISHES = {
    "orchard": "pick", "lake": "sail", "hill": "fly", "farm": "(feed|pet|visit) the", "kitchen": "bake",
    "attic": "find the old", "forest": "see the", "market": "buy", "river": "visit", "school": "play",
    "beach": "build", "library": "read",
}


def test_the_wish_fits_the_place():
    met = set()
    for told in MANY:
        place = re.search(r" to the (\w+)", told.text)[1]
        assert re.search(rf"{WISHES[place]}\b", re.search(r"(?<= to )(?!the ).*?\.", told.text)[0]), told.text
        met.add(place)
    assert met == WISHES.keys()


@pytest.mark.parametrize(("wish", "again"), [
    (r"pick some \w+ (\w+)", "the {0} hung|basket of {0} was"),
    (r"fly \w+ (\w+) kite", "the {0} kite flew"),
    (r"sail \w+ (\w+) boat", "the {0} boat drifted"),
    (r"(?:feed|pet|visit) the (\w+)", "the {0} hid"),
    (r"bake a (\w+) for", "for the {0}"),
    (r"see the \w+ (\w+)", "the {0} was"),
    (r"buy a (\w+ \w+)", "the {0} cost"),
    (r"visit \w+ (\w+) on", "to (his|her) {0} was"),
    (r"play the (\w+)", "the {0} made"),
])
def test_the_trouble_is_with_what_was_wished_for(wish, again):
    found = 0
    for told in MANY:
        if match := re.search(wish, told.text):
            found += 1
            assert len(re.findall(again.format(match[1]), told.text[match.end() - 1:])) == 1, told.text
    assert found > 50


@pytest.mark.parametrize(("trouble", "way_out"), [
    ("too high", r"lifted (him|her) up|(fetched|found|borrowed) a (ladder|stool|stick)"),
    ("too heavy", "carried it|rolled it on a (cart|log)"),
    ("a wave broke it", "dug a hole|moved away from"),
    ("chest .* locked", "opened it|found the key"),
    ("bridge", r"carried (him|her) over|crossed on a (log|rope|boat)"),
    ("one coin too much", r"gave (him|her) one|sold (his|her) \w+ for one"),
])
def test_the_way_out_fits_the_trouble(trouble, way_out):
    hit = [told for told in MANY if re.search(trouble, told.text)]
    assert len(hit) > 50
    for told in hit:
        assert re.search(way_out, re.split(trouble, told.text)[-1]), told.text
