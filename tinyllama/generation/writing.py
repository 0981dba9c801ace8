"""Text from a model: a prompt through the tokenizer, tokens from the model, text out as it comes."""


def write(model, tokenizer, prompt=None, *, max_new_tokens=500, on_limit="slide", **sampling):
    """Yield the text that follows `prompt`, piece by piece.

    prompt: a text; None is a line break, where texts begin, or the first token where the tokenizer has no line break.
    on_limit, sampling: as in `Llama.generate`. Raises what the tokenizer and `Llama.generate` raise, before the first
    piece.
    """
    if tokenizer.vocab_size != model.config.vocab_size:
        raise ValueError(f"tokenizer: expected one of {model.config.vocab_size} tokens, as the model has, "
                         f"got one of {tokenizer.vocab_size}")
    if prompt is None:
        prompt_ids = tokenizer.encode("\n") if "\n" in tokenizer.characters else [0]
    else:
        prompt_ids = tokenizer.encode(prompt)
    tokens = model.generate(prompt_ids, max_new_tokens, on_limit=on_limit, **sampling)
    return (tokenizer.decode([token]) for token in tokens)
