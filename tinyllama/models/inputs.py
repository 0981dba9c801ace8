"""What goes into a model is checked here, on the host, before anything is sent to a device."""

import numpy as np


def check_tokens(ids, config, name="ids"):
    """ids as an array (B, T) of int64.

    Raises TypeError unless they are integers, ValueError for another shape, a token outside the vocabulary, or more
    tokens than the context holds.
    """
    ids = _integers(ids, name)
    if ids.ndim != 2 or ids.size == 0:
        raise ValueError(f"{name}: expected the shape (B, T) with at least one token, got {ids.shape}")
    if ids.shape[1] > config.max_position_embeddings:
        raise ValueError(f"{name}: expected at most {config.max_position_embeddings} tokens a row "
                         f"(max_position_embeddings), got {ids.shape[1]}")
    _check_range(ids, config.vocab_size, name)
    return ids


def check_like_ids(targets, ids, name, vocab_size=None, ignore_index=-100):
    """targets as an array of int64 of the shape of ids; with a vocab_size, tokens or `ignore_index`.

    Raises TypeError unless they are integers, ValueError for another shape or a token outside the vocabulary.
    """
    targets = _integers(targets, name)
    if targets.shape != ids.shape:
        raise ValueError(f"{name}: expected the shape of ids, {ids.shape}, got {targets.shape}")
    if vocab_size is not None:
        _check_range(np.where(targets == ignore_index, 0, targets), vocab_size, name)
    return targets


def check_prompts(prompt_ids, config):
    """(prompts, single): a list of lists of ids, and whether it was one prompt and not a list of prompts.

    Raises TypeError or ValueError for an empty prompt, one longer than the context, or a token that is none.
    """
    if isinstance(prompt_ids, str | bytes):
        raise TypeError(f"prompt_ids: expected token ids, which a tokenizer makes from text, "
                        f"got {type(prompt_ids).__name__}")
    try:
        prompt_ids = list(prompt_ids)
        single = not prompt_ids or np.ndim(prompt_ids[0]) == 0
        ok = single or all(len(prompt) >= 0 for prompt in prompt_ids)
    except TypeError:
        ok = False
    if not ok:
        raise TypeError(f"prompt_ids: expected a sequence of integers, or a list of such sequences, got {prompt_ids!r}")
    prompts = []
    for i, prompt in enumerate([prompt_ids] if single else prompt_ids):
        name = "prompt_ids" if single else f"prompt_ids[{i}]"
        if len(prompt) == 0:
            raise ValueError(f"{name}: expected at least one token, got an empty prompt")
        prompts.append(check_tokens([list(prompt)], config, name)[0].tolist())
    return prompts, single


def _integers(values, name):
    try:
        values = np.asarray(values)
    except ValueError:
        raise ValueError(f"{name}: expected rows of equal length, got rows of different lengths") from None
    if values.size and values.dtype.kind not in "iu":       # an empty list is of no kind; its shape is refused later
        raise TypeError(f"{name}: expected integers, got {values.dtype}")
    return values.astype(np.int64)


def _check_range(ids, vocab_size, name):
    if ids.min() < 0 or ids.max() >= vocab_size:
        where = np.unravel_index(np.argmax((ids < 0) | (ids >= vocab_size)), ids.shape)
        index = ", ".join(str(int(i)) for i in where)
        raise ValueError(f"{name}: expected tokens from 0 to {vocab_size - 1}, got {int(ids[where])} at [{index}]")
