"""Loss, perplexity and bits per byte of a text, against a slow computation of the same."""

import math

import numpy as np
import pytest
from models_under_test import tiny_model

import tinyllama as tl
from tinyllama.data import Corpus
from tinyllama.tokenizers import CharacterTokenizer
from tinyllama.training.evaluation import entropy_per_target, evaluate_text

TEXTS = ["the cat sat", "é", "on the mat, and sat, and sat again until the evening é", "no"]


class WithEnds:
    """A tokenizer of characters with a first and an end token."""

    def __init__(self, characters):
        self.inner = CharacterTokenizer(characters)
        self.bos_token_id, self.eos_token_id = self.inner.vocab_size, self.inner.vocab_size + 1
        self.vocab_size = self.inner.vocab_size + 2

    def encode_to_array(self, text):
        return self.inner.encode_to_array(text)

    def token_bytes(self, token):
        return b"" if token >= self.inner.vocab_size else self.inner.token_bytes(token)


def tokenizer_of(kind):
    return kind("".join(sorted(set("".join(TEXTS)))))


def model_for(tokenizer, context=8):
    config = tl.LlamaConfig(vocab_size=tokenizer.vocab_size, hidden_size=12, intermediate_size=10, num_hidden_layers=2,
                            num_attention_heads=2, max_position_embeddings=context, initializer_range=0.4,
                            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    return tl.Llama(config, dtype="float64")


def slowly(model, tokenizer):
    """The log-probability of every predicted token, one piece of a document after the other."""
    logs, context = [], model.config.max_position_embeddings
    for text in TEXTS:
        ids = tokenizer.encode_to_array(text).tolist()
        if tokenizer.bos_token_id is not None:
            ids = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
        for first in range(0, len(ids) - 1, context):
            piece = ids[first:first + context + 1]
            logits = model.logits([piece[:-1]])[0]                                      # (T, V)
            log_p = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))     # (T, V)
            logs += log_p[np.arange(len(piece) - 1), piece[1:]].tolist()
    return logs


@pytest.mark.parametrize("kind", [CharacterTokenizer, WithEnds])
def test_it_is_what_the_definitions_say(kind):
    tokenizer = tokenizer_of(kind)
    model = model_for(tokenizer)
    logs = slowly(model, tokenizer)
    result = evaluate_text(model, tokenizer, Corpus(TEXTS))
    assert result.tokens == len(logs)
    assert result.loss == pytest.approx(-np.mean(logs), rel=1e-12)
    assert result.perplexity == pytest.approx(math.exp(-np.mean(logs)), rel=1e-12)
    size = len("".join(TEXTS).encode("utf-8"))
    if kind is CharacterTokenizer:
        size -= sum(len(text[0].encode("utf-8")) for text in TEXTS)     # nothing stands before the first characters
    assert result.bytes == size
    assert result.bits_per_byte == pytest.approx(-sum(logs) / math.log(2) / size, rel=1e-12)
    assert (result.entropy, result.excess) == (None, None)


def test_where_the_true_probabilities_are_known_the_excess_is_the_difference():
    tokenizer = tokenizer_of(WithEnds)
    corpus = Corpus(TEXTS, [-10.0, -2.0, -30.0, -4.0])
    result = evaluate_text(model_for(tokenizer), tokenizer, corpus)
    assert result.entropy == pytest.approx(46 / result.tokens)
    assert result.excess == pytest.approx(result.loss - 46 / result.tokens)


def test_a_tokenizer_without_ends_asks_another_question():
    corpus = Corpus(TEXTS, [-10.0, -2.0, -30.0, -4.0])
    assert entropy_per_target(corpus, tokenizer_of(CharacterTokenizer), 9) is None
    assert entropy_per_target(corpus, tokenizer_of(WithEnds), 23) == pytest.approx(2.0)


def test_what_does_not_fit_is_refused():
    tokenizer = tokenizer_of(CharacterTokenizer)
    with pytest.raises(ValueError, match=r"tokenizer: expected one of at most 13 tokens, as the model has, "
                                         "got one of 18"):
        evaluate_text(tiny_model(), tokenizer, Corpus(TEXTS))
    with pytest.raises(ValueError, match="corpus: expected documents of at least two tokens, got none"):
        evaluate_text(model_for(tokenizer), tokenizer, Corpus(["a", "c"]))
    ended = tokenizer_of(WithEnds)
    model = model_for(ended)
    ended.eos_token_id = 3
    with pytest.raises(ValueError, match=r"tokenizer: expected its end token among the model's, .*, got 3"):
        evaluate_text(model, ended, Corpus(TEXTS))


@pytest.mark.parametrize(("weight", "loss"), [(np.nan, "nan"), (1e6, r"\d{4,}")], ids=["no number", "beyond reason"])
def test_a_model_that_is_spoiled_is_refused(weight, loss):
    tokenizer = tokenizer_of(CharacterTokenizer)
    model = model_for(tokenizer)
    model.parameters.trainable[...] *= weight
    with pytest.raises(ValueError, match=rf"model: expected one with a loss below 700 nats per token, got {loss}"):
        evaluate_text(model, tokenizer, Corpus(TEXTS))
