"""Text from a model: a prompt through the tokenizer, tokens from the model, text out as it comes."""

from tinyllama.tokenizers.streaming import TextStream


def write(model, tokenizer, prompt=None, *, max_new_tokens=500, on_limit="slide", watch=iter, **sampling):
    """Yield the text that follows `prompt`, piece by piece.

    prompt: a text. None is a text's beginning: the tokenizer's first token, or a line break where it has none, or the
    token 0 where it has no line break either. A prompt, too, comes after the first token, unless the file of the
    tokenizer says that it does not. on_limit, sampling: as in `Llama.generate`. watch: what the tokens go through on
    their way, such as `Timing.watch`. A character whose bytes come in several tokens is yielded once it is complete,
    and one that never is as U+FFFD. Raises what the tokenizer and `Llama.generate` raise, before the first piece.
    """
    tokens = model.generate(first_tokens(model, tokenizer, prompt), max_new_tokens, on_limit=on_limit, **sampling)
    return as_text(watch(tokens), tokenizer, continues=True)


def first_tokens(model, tokenizer, prompt=None):
    """The tokens that `write` gives to the model for a prompt."""
    require_known_tokens(tokenizer, model.config)
    if prompt is None:
        return _beginning(tokenizer)
    has_bos = tokenizer.bos_token_id is not None and getattr(tokenizer, "adds_bos", None) is not False
    return tokenizer.encode(prompt, bos=has_bos)


def as_text(tokens, tokenizer, *, continues):
    """Yield the text of tokens, piece by piece; never an empty one. continues: see `TextStream`.

    A token beyond the tokenizer's has no text: the tables of a model are often larger, for the machine's sake.
    """
    stream = TextStream(tokenizer, continues)
    for token in tokens:
        if token < tokenizer.vocab_size and (piece := stream.feed(token)):
            yield piece
    if rest := stream.close():
        yield rest


def require_known_tokens(tokenizer, config):
    """Raise ValueError where a tokenizer has tokens that the model has not."""
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(f"tokenizer: expected one of at most {config.vocab_size} tokens, as the model has, "
                         f"got one of {tokenizer.vocab_size}")


def _beginning(tokenizer):
    if tokenizer.bos_token_id is not None:
        return [tokenizer.bos_token_id]
    try:
        return tokenizer.encode("\n")
    except ValueError:
        return [0]
