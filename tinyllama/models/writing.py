"""Text from a model: a prompt through the tokenizer, tokens from the model, text out as it comes."""

import warnings

from tinyllama.generation import ContextLimitWarning


def write(model, tokenizer, prompt=None, *, max_new_tokens=500, on_limit="slide", **sampling):
    """Yield the text that follows `prompt`, piece by piece.

    prompt: a text; None is a line break, where texts begin, or the first token where the tokenizer has no line break.
    on_limit, sampling: as in `Llama.generate`. With on_limit="slide", the default, the text goes on beyond the context
    without a warning. Raises what the tokenizer and `Llama.generate` raise, before the first piece.
    """
    if prompt is None:
        prompt_ids = tokenizer.encode("\n") if "\n" in tokenizer.characters else [0]
    else:
        prompt_ids = tokenizer.encode(prompt)
    return _pieces(model.generate(prompt_ids, max_new_tokens, on_limit=on_limit, **sampling), tokenizer, on_limit)


def _pieces(tokens, tokenizer, on_limit):
    with warnings.catch_warnings():
        if on_limit == "slide":
            warnings.simplefilter("ignore", ContextLimitWarning)
        for token in tokens:
            yield tokenizer.decode([token])
