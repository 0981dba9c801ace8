"""Text from a model: a prompt through the tokenizer, tokens from the model, text out as it comes."""

import codecs


def write(model, tokenizer, prompt=None, *, max_new_tokens=500, on_limit="slide", **sampling):
    """Yield the text that follows `prompt`, piece by piece.

    prompt: a text. None is a text's beginning: the tokenizer's first token, or a line break where it has none, or the
    token 0 where it has no line break either. A prompt, too, comes after the first token. on_limit, sampling: as in
    `Llama.generate`. A character whose bytes come in several tokens is yielded once it is complete, and one that never
    is as U+FFFD. Raises what the tokenizer and `Llama.generate` raise, before the first piece.
    """
    if tokenizer.vocab_size != model.config.vocab_size:
        raise ValueError(f"tokenizer: expected one of {model.config.vocab_size} tokens, as the model has, "
                         f"got one of {tokenizer.vocab_size}")
    has_bos = tokenizer.bos_token_id is not None
    prompt_ids = _beginning(tokenizer) if prompt is None else tokenizer.encode(prompt, bos=has_bos)
    tokens = model.generate(prompt_ids, max_new_tokens, on_limit=on_limit, **sampling)
    return _text(tokens, tokenizer)


def _beginning(tokenizer):
    if tokenizer.bos_token_id is not None:
        return [tokenizer.bos_token_id]
    try:
        return tokenizer.encode("\n")
    except ValueError:
        return [0]


def _text(tokens, tokenizer):
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in tokens:
        if piece := decoder.decode(tokenizer.token_bytes(token)):
            yield piece
    if rest := decoder.decode(b"", final=True):
        yield rest
