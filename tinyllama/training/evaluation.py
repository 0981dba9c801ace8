"""How well a model predicts a text: loss, perplexity, bits per byte."""

import math
from typing import NamedTuple

from tinyllama.data import packed_batches, tokenize
from tinyllama.generation.writing import require_known_tokens
from tinyllama.training.optimizers import require
from tinyllama.training.trainer import evaluate

TOKENS_OF_A_BATCH = 2048
LARGEST_LOSS = 700      # exp of more is no float64


class TextEvaluation(NamedTuple):
    """The figures of one text."""

    loss: float             # nats per token
    perplexity: float       # exp(loss): among how many tokens the model hesitates, as if they were equally probable
    bits_per_byte: float    # independent of the tokenizer, so that models with different ones can be compared
    tokens: int             # predicted
    bytes: int              # of UTF-8, predicted
    entropy: float | None   # nats per token of the very same text under its true source; None where nobody knows it

    @property
    def excess(self):
        """loss - entropy: what the model has yet to learn, None where the entropy is not known."""
        return None if self.entropy is None else self.loss - self.entropy


def evaluate_text(model, tokenizer, corpus, context=None):
    """Predict every token of every document of a corpus once, and count.

    A document longer than `context` is cut into pieces, and each piece is predicted from its own beginning. With None a
    piece is as long as the model's context, but at most TOKENS_OF_A_BATCH.

    Where the tokenizer has no first token, the first token of a document is not predicted, having nothing before it,
    and its bytes do not count. An end token counts as a token and has no bytes.

        perplexity = exp(loss)          bits per byte = loss · tokens / (log 2 · bytes)

    Raises ValueError where the tokenizer is not the model's, where nothing is left to predict, or where the weights of
    the model are spoiled: the loss is then no number, or beyond all reason.
    """
    require_tokenizer(tokenizer, model.config)
    tokens = tokenize(corpus.documents, tokenizer)
    limit = model.config.max_position_embeddings
    context = min(limit, TOKENS_OF_A_BATCH) if context is None else context
    require(1 <= context <= limit, "context", f"1 to {limit} tokens, as the model has", context)
    batches = packed_batches(tokens, batch_size=max(TOKENS_OF_A_BATCH // context, 1), context=context)
    if not (tokens.lengths > 1).any():
        raise ValueError("corpus: expected documents of at least two tokens, got none")
    result = evaluate(model, batches)
    require(result.loss < LARGEST_LOSS, "model", f"one with a loss below {LARGEST_LOSS} nats per token", result.loss)
    byte_count = sum(len(document.encode("utf-8")) for document in corpus.documents)
    byte_count -= sum(len(tokenizer.token_bytes(int(tokens.ids[start]))) for start in tokens.starts[:-1])
    entropy = entropy_per_target(corpus, tokenizer, result.targets)
    return TextEvaluation(result.loss, math.exp(result.loss), result.loss * result.targets / math.log(2) / byte_count,
                          result.targets, byte_count, entropy)


def entropy_per_target(corpus, tokenizer, targets):
    """-Σ log p / targets: what the true source of these very documents would reach as its loss, in nats per target.

    None where the corpus does not know its probabilities, or where the tokenizer has no first and no end token: the
    first token is then given and the end not predicted, which is another question.
    """
    if corpus.log_probabilities is None or None in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        return None
    return -math.fsum(corpus.log_probabilities) / targets


def require_tokenizer(tokenizer, config):
    """Raise ValueError unless the tokens of the tokenizer, and its end token, are those of the model.

    A model may have more of them: tables are often rounded up to a size that suits the machine.
    """
    require_known_tokens(tokenizer, config)
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in config.end_tokens:
        raise ValueError(f"tokenizer: expected its end token among the model's, {config.end_tokens}, "
                         f"got {tokenizer.eos_token_id}")
