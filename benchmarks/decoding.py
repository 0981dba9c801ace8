"""How fast a random LLaMA writes: in float32, with quantised weights, and, where transformers is installed, there.

    python benchmarks/decoding.py 15M 110M 135M --rounds 5

Ours are float32, int8 (one scale a row), int4 (groups of 32 with a scale and an offset), and "mixed": int4, but the
embedding, which is also the head, of int8 in groups of 32, as a GGUF of Q4_1 and Q8_0 is. 135M is the shape of SmolLM2.

The contestants take turns, and with them a measurement of how fast this machine reads memory. Prints one JSON line for
each size and contestant: tokens a second (greedy, one text, after the prompt), the time of one token after a short
and after a long text, and, for ours, how fast a prompt of half the context, or of 512 tokens, is read, and the bytes of
weights that a token reads, in a second and as a share of the read bandwidth; `times_transformers` and `times_float32`
are ratios of median times.
"""

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import tinyllama as tl
from tinyllama.backends.threads import cores
from tinyllama.models.decoding import new_step
from tinyllama.models.quantization import OnDemand, QuantizedLlama
from tinyllama.ops.quantized_linear import quantize_groups

# hidden_size, layers, heads, key and value heads, intermediate_size, context, vocab_size
SIZES = {"15M": (288, 6, 6, 6, 768, 256, 32000), "110M": (768, 12, 12, 12, 2048, 1024, 32000),
         "135M": (576, 30, 9, 3, 1536, 2048, 49152)}
PROMPT = [1, 306, 626, 263, 12561, 4933, 29889, 450]
READ_BYTES = 2**29
PAUSE = 0.3                 # seconds, in which the threads of OpenBLAS and PyTorch give up waiting for more work
SHORT, LONG = 10, 0.88      # a text of 10 tokens, and one that fills 0.88 of the context: 900 of 1,024
LONG_PROMPT = 512           # tokens
GROUP_SIZE = 32


def make(size):
    hidden_size, layers, heads, key_value_heads, intermediate_size, context, vocab_size = SIZES[size]
    config = tl.LlamaConfig(vocab_size=vocab_size, hidden_size=hidden_size, intermediate_size=intermediate_size,
                            num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=key_value_heads,
                            max_position_embeddings=context, tie_word_embeddings=True)
    return tl.Llama(config, backend="numba")


def mixed(model):
    """The model with an embedding of eight bits and everything else of four."""
    def quantized(name):
        weight = model.parameters[name]
        bits = 8 if name == "model.embed_tokens.weight" else 4
        return weight if weight.ndim == 1 else quantize_groups(weight, bits, GROUP_SIZE)
    return QuantizedLlama(model.config, OnDemand(quantized), backend=model.backend)


class ReadBandwidth:
    """Bytes a second that all cores together read from memory, by sums over parts of a large array."""

    def __init__(self):
        self.parts = np.array_split(np.ones(READ_BYTES // 4, np.float32), cores())
        self.pool = ThreadPoolExecutor(len(self.parts))

    def measure(self):
        start = time.perf_counter()
        list(self.pool.map(np.sum, self.parts))
        return READ_BYTES / (time.perf_counter() - start)


def ours(model):
    def write(count):
        return list(model.generate(PROMPT, count, temperature=0))
    return write


def transformers(model):
    import torch
    from transformers import LlamaForCausalLM
    from transformers.utils import logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        tl.save(model, folder)
        theirs = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([PROMPT])

    def write(count):
        with torch.no_grad():
            written = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False,
                                      use_cache=True, eos_token_id=None, pad_token_id=0)
        return written[0, len(PROMPT):].tolist()
    return write


def seconds_of_a_token(model, length, repeats=15):
    """The median time of one token after a text of `length` tokens."""
    step = new_step(model, 1, length + repeats)
    step(np.arange(length)[None] % model.config.vocab_size, np.array([length]))
    time.sleep(PAUSE)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step(np.array([[1]]), np.array([1]))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def seconds_of_a_prompt(model, length):
    """The time of the first step of a text that begins with `length` tokens."""
    step = new_step(model, 1, length)
    ids = np.arange(length)[None] % model.config.vocab_size
    start = time.perf_counter()
    step(ids, np.array([length]))
    return time.perf_counter() - start


def seconds_of(write, count):
    start = time.perf_counter()
    write(count)
    return time.perf_counter() - start


def compare(size, *, rounds, count):
    """Print a line for each contestant."""
    model = make(size)
    models = {"float32": model, "int8": tl.quantize(model), "int4": tl.quantize(model, 4, GROUP_SIZE),
              "mixed": mixed(model)}
    writers = {name: ours(of) for name, of in models.items()}
    if importlib.util.find_spec("transformers"):
        writers["transformers"] = transformers(model)
        assert writers["transformers"](count) == writers["float32"](count), "the greedy tokens differ"
    lengths = (SHORT, int(LONG * model.config.max_position_embeddings))
    prompt_length = min(LONG_PROMPT, model.config.max_position_embeddings // 2)
    prompt_times = {name: [] for name in models}
    times, bandwidth = {name: [] for name in writers}, ReadBandwidth()
    token_times, rates = {(name, length): [] for name in models for length in lengths}, []
    for write in writers.values():
        write(2)
    for _ in range(rounds):
        rates.append(bandwidth.measure())
        for name, write in writers.items():
            time.sleep(PAUSE)
            prompt_seconds, seconds = seconds_of(write, 1), seconds_of(write, 1 + count)
            times[name].append((seconds - prompt_seconds) / count)
        for name, length in token_times:
            token_times[name, length].append(seconds_of_a_token(models[name], length))
        for name, of in models.items():
            time.sleep(PAUSE)
            prompt_times[name].append(seconds_of_a_prompt(of, prompt_length))
    rate, medians = statistics.median(rates), {name: statistics.median(values) for name, values in times.items()}
    for name in writers:
        row = {"size": size, "contestant": name, "tokens_per_second": round(1 / medians[name], 1),
               "times_float32": round(medians["float32"] / medians[name], 2)}
        if "transformers" in medians:
            row["times_transformers"] = round(medians["transformers"] / medians[name], 2)
        if name in models:
            weight_bytes = sum(weight.nbytes for weight in models[name].parameters.values())
            seconds = {length: statistics.median(token_times[name, length]) for length in lengths}
            row |= {f"ms_after_{length}": round(seconds[length] * 1e3, 3) for length in lengths}
            prompt_rate = prompt_length / statistics.median(prompt_times[name])
            row[f"prompt_{prompt_length}_tokens_per_second"] = round(prompt_rate)
            read_rate = weight_bytes / seconds[SHORT]
            row |= {"weight_megabytes": round(weight_bytes / 1e6, 1), "gigabytes_per_second": round(read_rate / 1e9, 1),
                    "read_bandwidth": round(rate / 1e9, 1), "share_of_bandwidth": round(read_rate / rate, 2)}
        print(json.dumps(row), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="+", choices=SIZES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48, help="how many each writes in a round")
    arguments = parser.parse_args()
    for size in arguments.sizes:
        compare(size, rounds=arguments.rounds, count=arguments.tokens)


if __name__ == "__main__":
    main()
