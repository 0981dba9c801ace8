"""How fast a model writes, one token at a time, beside how fast its weights can be read."""

import statistics
import time
from typing import NamedTuple

from tinyllama.bench.counts import weight_bytes_per_token
from tinyllama.bench.limits import read_rate
from tinyllama.bench.sizes import Size
from tinyllama.models import Llama
from tinyllama.models.quantization import quantize

PROMPT = 8              # tokens
WARM_UP = 4             # tokens that do not count, the first of which reads the prompt
ROUNDS = 5
SECONDS = 1.0           # a round that takes longer ends here


class DecodingProfile(NamedTuple):
    """What writing took."""

    size: Size
    backend: str
    weights: str            # "float32" or "int8"
    times: list             # seconds a token, the mean of each round
    read_rates: list        # bytes a second that this machine could read before each round
    weight_bytes: int       # of the weights that every token reads
    cache_bytes: float      # of the keys and values that a token reads, the mean of a round

    @property
    def seconds(self):
        """The median of the rounds: seconds a token."""
        return statistics.median(self.times)

    @property
    def share_of_memory(self):
        """The rate at which weights are read as a share of the rate at which memory is: the median of the rounds."""
        return statistics.median(self.weight_bytes / seconds / rate
                                 for seconds, rate in zip(self.times, self.read_rates, strict=True))


def profile_decoding(size, *, weights="float32", backend=None, workers=None, rounds=ROUNDS, array_bytes=None,
                     say=lambda text: None):
    """Let a model continue a short prompt until its context is full, several times: a `DecodingProfile`.

    weights: "float32" or "int8". backend, workers: None for what a model takes by itself. array_bytes: see
    `measure_limits`. say(text) is told what is going on. The most probable token is taken each time. The rate of
    reading is measured anew before each round, because on a machine with neighbours it changes from second to second.
    """
    model = Llama(size.config, workers=workers, **({} if backend is None else {"backend": backend}))
    if weights == "int8":
        model = quantize(model)
    times, counts, read_rates = [], [], []
    for number in range(rounds):
        say(f"decoding, {size.name}, {weights}: {number + 1} of {rounds}")
        read_rates.append(read_rate(array_bytes, rounds=2))
        seconds, count = _write(model, size.context - PROMPT)
        times.append(seconds / count)
        counts.append(count)
    config = size.config
    bytes_a_key = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * model.dtype.itemsize
    mean_length = PROMPT + WARM_UP + statistics.mean(counts) / 2
    return DecodingProfile(size, model.backend.name, weights, times, read_rates, weight_bytes_per_token(model),
                           bytes_a_key * mean_length)


def _write(model, new_tokens):
    """(seconds, tokens) of what follows the warm-up."""
    tokens = model.generate(range(1, PROMPT + 1), new_tokens, temperature=0)
    for _ in range(WARM_UP):
        next(tokens)
    count, start = 0, time.perf_counter()
    for _ in tokens:
        count += 1
        if time.perf_counter() - start > SECONDS:
            break
    return time.perf_counter() - start, count
