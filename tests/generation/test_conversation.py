"""What was said: as the model is shown it, as it is remembered, and what happens when there is too much of it."""

import types

import models_under_test as mut
import pytest

from tinyllama.generation.conversation import Conversation
from tinyllama.tokenizers import CharacterTokenizer

LETTERS = "\n :AIBUabcdefhinorstuy.?!Ss"
TOKENIZER = CharacterTokenizer("".join(dict.fromkeys(LETTERS)))


class Scripted:
    """A model that gives the answers of a script and notes what it was shown."""

    def __init__(self, *answers, context=400):
        self.answers, self.shown = list(answers), []
        self.config = mut.tiny_config(vocab_size=TOKENIZER.vocab_size, max_position_embeddings=context)

    def new_session(self, capacity):
        return types.SimpleNamespace(capacity=capacity or self.config.max_position_embeddings, common=lambda ids: 0)

    def generate(self, ids, max_new_tokens, *, end_tokens, session, **sampling):
        self.shown.append(TOKENIZER.decode(ids))
        yield from TOKENIZER.encode(self.answers.pop(0))[:max_new_tokens]


def say(conversation, message, **settings):
    answer = conversation.answer(message, **settings)
    assert "".join(answer) == answer.text
    return answer


def test_without_a_template_a_conversation_is_a_play():
    model = Scripted(" hi!\nUser: not I", "\n\n so?")
    conversation = Conversation(model, TOKENIZER, system="Be sour.")
    first, second = say(conversation, "hi"), say(conversation, "so")
    assert model.shown == ["Be sour.\nUser: hi\nAssistant:",
                           "Be sour.\nUser: hi\nAssistant: hi!\nUser: so\nAssistant:"]
    assert (first.text, first.is_complete, second.text, second.is_complete) == ("hi!", True, "so?", False)
    assert conversation.turns == [("hi", "hi!"), ("so", "so?")]
    conversation.reset()
    assert conversation.turns == []


@pytest.mark.parametrize("written, pieces", [
    ("ab\nUser: c", ["a", "b"]), ("ab\n\nUser:", ["a", "b", "\n"]), ("a\nUs b", ["a", "\nUs ", "b"]),
    ("a\nUse", ["a", "\nUse"]), ("  a ", ["a", " "]), ("\nUser:", []), ("  ", [])])
def test_the_line_of_the_user_is_never_shown_not_even_its_beginning(written, pieces):
    assert list(Conversation(Scripted(written), TOKENIZER).answer("hi")) == pieces


def test_what_was_written_until_a_break_is_remembered():
    conversation = Conversation(Scripted("abc", "abc"), TOKENIZER)
    pieces = iter(conversation.answer("hi"))
    assert next(pieces) + next(pieces) == "ab"
    pieces.close()
    assert conversation.turns == [("hi", "ab")]


def test_a_turn_without_an_answer_is_not_remembered():
    conversation = Conversation(Scripted(""), TOKENIZER)
    assert say(conversation, "hi").text == ""
    assert conversation.turns == []


def test_the_oldest_half_of_the_turns_is_forgotten_when_the_context_is_full():
    model = Scripted(*"abcdef", context=120)
    conversation = Conversation(model, TOKENIZER, system="SSSS")
    forgotten = [say(conversation, f"hi {letter}", max_new_tokens=30).forgotten for letter in "abcdef"]
    assert forgotten == [0, 0, 0, 2, 0, 2]
    assert model.shown[3] == "SSSS\nUser: hi c\nAssistant: c\nUser: hi d\nAssistant:"
    assert [message for message, _ in conversation.turns] == ["hi d", "hi e", "hi f"][-len(conversation.turns):]
    assert all(len(shown) + 30 <= 121 for shown in model.shown)


def test_a_message_beyond_the_context_is_refused_and_changes_nothing():
    conversation = Conversation(Scripted("a", context=60), TOKENIZER)
    say(conversation, "hi")
    with pytest.raises(ValueError, match=r"message: expected at most 60 tokens, .* got 67"):
        conversation.answer("a" * 50)
    assert conversation.turns == [("hi", "a")]


def test_an_answer_that_fills_the_context_says_so():
    answer = say(Conversation(Scripted("a" * 100, context=40), TOKENIZER), "hi")
    assert (len(answer.text), answer.is_full, answer.is_complete) == (40 - 19 + 1, True, False)
    answer = say(Conversation(Scripted("a" * 100, context=40), TOKENIZER), "hi", max_new_tokens=5)
    assert (len(answer.text), answer.is_full, answer.is_complete) == (5, False, False)


def test_an_end_token_ends_an_answer_and_is_not_shown():
    [end] = TOKENIZER.encode("!")
    answer = say(Conversation(Scripted("ab!ab"), TOKENIZER, end_tokens=[end]), "hi")
    assert (answer.text, answer.is_complete, answer.timing.count) == ("ab", True, 3)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused():
    with pytest.raises(ValueError, match="tokenizer: expected one of at most 13 tokens, as the model has, got one of"):
        Conversation(mut.tiny_model(), TOKENIZER)
