"""Text from tokens as they come: complete characters only, and in the end what decoding all of them gives."""

import codecs

import pytest
from bpe_cases import TRAINING
from varied_texts import varied_texts

import tinyllama as tl
from tinyllama.tokenizers import CharacterTokenizer, streaming
from tinyllama.tokenizers.streaming import TextStream

EVERYTHING = [document for documents in TRAINING.values() for document in documents]


@pytest.fixture(scope="module")
def byte_level():
    return tl.train_tokenizer(EVERYTHING, 408)


def streamed(tokenizer, tokens, **settings):
    stream = streaming.TextStream(tokenizer, **settings)
    return [stream.feed(token) for token in tokens], stream.close()


def assert_streams(tokenizer, rng):
    for _ in range(2000):
        tokens = rng.integers(0, tokenizer.vocab_size, size=rng.integers(0, 12)).tolist()
        parts, rest = streamed(tokenizer, tokens)
        assert "".join(parts) + rest == tokenizer.decode_bytes(tokens).decode(errors="replace")


def test_any_tokens_give_in_the_end_what_decoding_gives(byte_level, rng):
    assert_streams(byte_level, rng)


def test_so_do_those_of_a_sentencepiece_tokenizer(shared_data, rng):
    tokenizer = tl.load_tokenizer(shared_data / "tok512.bin")
    assert_streams(tokenizer, rng)
    for text in varied_texts(rng, 1000):
        tokens = tokenizer.encode(text)
        parts, rest = streamed(tokenizer, tokens)
        assert "".join(parts) + rest == tokenizer.decode(tokens)


def test_a_character_comes_when_it_is_complete(byte_level):
    tokens = byte_level.encode_bytes("a🦙é".encode())
    parts, rest = streamed(byte_level, tokens)
    assert rest == ""
    assert [part for part in parts if part] == ["a", "🦙", "é"]
    assert "\ufffd" not in "".join(parts)


def test_half_a_character_comes_as_such_only_at_the_end_or_when_it_is_known(byte_level):
    half = byte_level.encode_bytes("🦙".encode()[:3])
    assert streamed(byte_level, half) == ([""] * len(half), "\ufffd")
    parts, rest = streamed(byte_level, [*half, *byte_level.encode("b")])
    assert ("".join(parts), rest) == ("\ufffdb", "")


def test_special_tokens_give_nothing(byte_level):
    assert streamed(byte_level, [0, *byte_level.encode("b"), 1]) == (["", "b", ""], "")


def test_what_goes_on_keeps_its_first_space(shared_data):
    tokenizer = tl.load_tokenizer(shared_data / "tok512.bin")
    tokens = tokenizer.encode("was")
    assert "".join(streamed(tokenizer, tokens)[0]) == "was"
    assert "".join(streamed(tokenizer, tokens, continues=True)[0]) == " was"
    assert "".join(streamed(tokenizer, [1, 2, *tokens])[0]) == "was"


def test_a_token_that_is_none_is_refused(byte_level):
    with pytest.raises(ValueError, match="token: expected an integer from 0 to 407, got 408"):
        TextStream(byte_level).feed(408)


class EachByItself(TextStream):
    def feed(self, token):
        return self._tokenizer.token_bytes(token).decode(errors="replace")


class NeverClosed(TextStream):
    def close(self):
        return ""


class DropsBytes(TextStream):
    def __init__(self, tokenizer):
        super().__init__(tokenizer)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")


@pytest.mark.parametrize("wrong", [EachByItself, NeverClosed, DropsBytes])
def test_wrong_streams_are_rejected(wrong, byte_level, rng, monkeypatch):
    monkeypatch.setattr(streaming, "TextStream", wrong)
    with pytest.raises(AssertionError):
        assert_streams(byte_level, rng)


def test_a_tokenizer_of_characters_streams_too():
    tokenizer = CharacterTokenizer("aé你")
    assert streamed(tokenizer, tokenizer.encode("é你a")) == (["é", "你", "a"], "")
