"""The checks that every tokenizer makes of its arguments."""

import operator

import numpy as np


def encoded(text, encoding, *, name="text"):
    """The bytes of a text, in UTF-8 or UTF-32.

    Raises TypeError where it is not a str, and ValueError for a lone surrogate: half of a character, not a character.
    """
    if not isinstance(text, str):
        raise TypeError(f"{name}: expected a str, got {type(text).__name__}")
    try:
        return text.encode(encoding)
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}: position {error.start} holds a lone surrogate (U+{ord(text[error.start]):04X}), "
                         "which is half of a character") from error


def checked_ids(ids, vocab_size):
    """The tokens as an array.

    ids: (T,) integers in an array, a list or whatever yields them, or one integer  ->  (T,) integers.
    Raises ValueError where they are not integers in 0 .. vocab_size - 1.
    """
    ids = np.atleast_1d(np.asarray(list(ids) if hasattr(ids, "__next__") else ids))
    if ids.ndim > 1:
        raise ValueError(f"ids: expected one sequence of tokens, got an array of shape {ids.shape}")
    if not ids.size:
        return np.zeros(0, dtype=np.int32)
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"ids: expected integers, got {ids.dtype}")
    outside = (ids < 0) | (ids >= vocab_size)
    if outside.any():
        at = int(outside.argmax())
        raise ValueError(f"ids: position {at} holds {ids[at]}, expected 0 to {vocab_size - 1}, "
                         f"since the vocabulary has {vocab_size} tokens")
    return ids


def checked_token(token, vocab_size):
    """One token as an int. Raises ValueError where it is not an integer in 0 .. vocab_size - 1."""
    if not hasattr(token, "__index__") or not 0 <= token < vocab_size:
        raise ValueError(f"token: expected an integer from 0 to {vocab_size - 1}, got {token!r}")
    return operator.index(token)
