"""The loop of generation: a step gives logits, a sampler picks a token, the token goes into the next step.

It knows a step function and no model: `step(ids, counts)` takes the new tokens, (B, T) integers of which the first
counts[b] of row b are real, and returns the logits after the last real one, (B, V).
"""

import numbers
import warnings
from typing import Any, NamedTuple

import numpy as np

from tinyllama.ops.counter_random import uniform_number

ENDED = -1      # what a batch yields for a row that has ended


class ContextLimitWarning(UserWarning):
    """The context is full: generation stopped, or dropped the oldest tokens."""


class Sampling(NamedTuple):
    """How the next token is drawn; see `tinyllama.ops.sampling`. The temperature 0 is greedy."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int = 0

    def check(self):
        """Raise TypeError or ValueError, naming the setting that is no number or out of its range; returns itself."""
        for name, kind in (("temperature", numbers.Real), ("top_k", numbers.Integral), ("top_p", numbers.Real),
                           ("min_p", numbers.Real), ("seed", numbers.Integral)):
            value = getattr(self, name)
            if not isinstance(value, kind) and (value is not None or name in ("temperature", "seed")):
                expected = "an integer" if kind is numbers.Integral else "a number"
                raise TypeError(f"{name}: expected {expected}, got {value!r}")
        for name, value, accepted, expected in (
            ("temperature", self.temperature, self.temperature >= 0, "a number of at least 0"),
            ("top_k", self.top_k, self.top_k is None or self.top_k >= 1, "at least 1, or None"),
            ("top_p", self.top_p, self.top_p is None or 0 < self.top_p <= 1, "0 < top_p <= 1, or None"),
            ("min_p", self.min_p, self.min_p is None or 0 <= self.min_p <= 1, "0 <= min_p <= 1, or None"),
        ):
            if not accepted:
                raise ValueError(f"{name}: expected {expected}, got {value}")
        return self


def generate(new_step, prompts, *, backend, max_new_tokens, context_limit, end_tokens, sampling, on_limit):
    """Yield (B,) arrays of token ids, one for each step, until every row has ended or `max_new_tokens` are out.

    new_step() -> step: begins with an empty memory. prompts: a list of lists of ids. A row ends after one of
    `end_tokens`, which it still yields; from then on it yields `ENDED`. Where a row reaches `context_limit`, it stops,
    or, with on_limit="slide", keeps the last half of its tokens, forgets the rest, and goes on. Either is announced by
    a `ContextLimitWarning`.

    Row b draws the random number of step t from (seed, t, b): what a row becomes does not depend on its neighbours.
    """
    texts = [list(prompt) for prompt in prompts]        # what each row's context holds
    running = np.ones(len(texts), dtype=bool)
    step, fresh = new_step(), texts
    for t in range(max_new_tokens):
        counts = np.array([len(ids) for ids in fresh])                                  # (B,)
        padded = np.zeros((len(fresh), max(counts)), dtype=np.int64)                    # (B, T)
        for row, ids in enumerate(fresh):
            padded[row, :len(ids)] = ids
        logits = step(padded, counts)                                                   # (B, V)
        tokens = np.where(running, _draw(logits, t, backend, sampling), ENDED)          # (B,)
        yield tokens

        running &= ~np.isin(tokens, end_tokens)
        is_full = running & (np.array([len(ids) for ids in texts]) >= context_limit)
        if is_full.any() and t + 1 < max_new_tokens:
            _announce(context_limit, on_limit)
            if on_limit == "stop":
                running &= ~is_full
        if not running.any():
            return
        for row in np.flatnonzero(running):
            texts[row].append(int(tokens[row]))
        fresh = [ids[-1:] if running[row] else [] for row, ids in enumerate(texts)]
        if (is_full & running).any():
            for row in np.flatnonzero(is_full):
                texts[row] = texts[row][-max(context_limit // 2, 1):]
            step, fresh = new_step(), texts


def _draw(logits, t, backend, sampling):
    """(B, V) logits -> (B,) tokens on the host: the only transfers of a step beside its input."""
    settings: dict[str, Any] = sampling._asdict()
    seed = settings.pop("seed")
    uniform = None
    if sampling.temperature > 0:
        draws = [[uniform_number(seed, t, row)] for row in range(len(logits))]        # (B, 1)
        uniform = backend.asarray(np.array(draws, dtype=logits.dtype))
    return backend.to_numpy(backend.sample(logits, uniform=uniform, **settings))


def _announce(context_limit, on_limit):
    action = "it stops here" if on_limit == "stop" else "it goes on with the last half of its tokens"
    message = f"a row has filled its context of {context_limit} tokens: {action}"
    warnings.warn(message, ContextLimitWarning, stacklevel=3)
