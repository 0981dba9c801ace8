"""How long training a tokenizer and encoding with it take, beside the library `tokenizers` where it is installed.

    python benchmarks/tokenizer.py
    python benchmarks/tokenizer.py --data my.txt --vocab-size 8192 --documents 1
    python benchmarks/tokenizer.py --tokenizer tokenizer.model

Both train on the same documents and encode the same megabyte of text, in turn. The library trains on several cores,
one document at a time on each; ours uses one. With --tokenizer nothing is trained: the vocabulary comes from that file,
and the library reads it from the tokenizer.json that we save. Prints JSON lines: the medians in seconds, and their
ratio.
"""

import argparse
import importlib.util
import json
import statistics
import tempfile
import time

import tinyllama as tl
from tinyllama.data import read_text
from tinyllama.tokenizers.byte_level import printable

MEGABYTE = 1_000_000


def seconds(function):
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def train_theirs(documents, vocab_size):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(documents, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<|begin_of_text|>", "<|end_of_text|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def same_merges(ours, theirs):
    pairs = json.loads(theirs.to_str())["model"]["merges"]
    return [[printable(merge.left), printable(merge.right)] for merge in ours.merges] == pairs


def report(what, ours, theirs, **facts):
    medians = {name: statistics.median(times) for name, times in (("ours_s", ours), ("theirs_s", theirs)) if times}
    ratio = {"ratio": round(medians["ours_s"] / medians["theirs_s"], 2)} if theirs else {}
    rounded = {name: round(median, 4) for name, median in medians.items()}
    print(json.dumps({"what": what, **rounded, **ratio, **facts}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="shakespeare")
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--documents", type=int, default=250, help="into how many pieces the text is cut")
    parser.add_argument("--tokenizer", help="a file with a vocabulary to encode with, of any format that we read")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    has_theirs = importlib.util.find_spec("tokenizers") is not None
    text = read_text(arguments.data)
    train_or_load = load_both if arguments.tokenizer else train_both
    encode(*train_or_load(arguments, text, has_theirs), text[:MEGABYTE], arguments.repeats)


def load_both(arguments, text, has_theirs):
    """The tokenizer in a file, and the library's of the same vocabulary or None."""
    tokenizer = tl.load_tokenizer(arguments.tokenizer)
    if not has_theirs:
        return tokenizer, None
    from tokenizers import Tokenizer
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        return tokenizer, Tokenizer.from_file(f"{folder}/tokenizer.json")


def train_both(arguments, text, has_theirs):
    """Our tokenizer, trained on the text, and the library's or None."""
    size = -(-len(text) // arguments.documents)
    documents = [text[start:start + size] for start in range(0, len(text), size)]

    ours, theirs, library = [], [], None
    for _ in range(arguments.repeats):
        elapsed, tokenizer = seconds(lambda: tl.train_tokenizer(documents, arguments.vocab_size))
        ours.append(elapsed)
        if has_theirs:
            elapsed, library = seconds(lambda: train_theirs(documents, arguments.vocab_size))
            theirs.append(elapsed)
    facts = {"same_merges": same_merges(tokenizer, library)} if has_theirs else {}
    report("train", ours, theirs, characters=len(text), documents=len(documents), vocab_size=arguments.vocab_size,
           **facts)
    return tokenizer, library


def encode(tokenizer, library, sample, repeats):
    first, again, theirs = [], [], []
    for _ in range(repeats):
        tokenizer._words.clear()            # as after loading
        elapsed, ids = seconds(lambda: tokenizer.encode(sample))
        first.append(elapsed)
        again.append(seconds(lambda: tokenizer.encode(sample))[0])
        if library:
            elapsed, encoding = seconds(lambda: library.encode(sample))
            theirs.append(elapsed)
    facts = {"characters": len(sample), "tokens": len(ids)} | ({"same_ids": encoding.ids == ids} if library else {})
    report("encode, no word known", first, theirs, **facts)
    report("encode, every word known", again, theirs, **facts)
    report("decode", [seconds(lambda: tokenizer.decode(ids))[0] for _ in range(repeats)],
           [seconds(lambda: library.decode(ids))[0] for _ in range(repeats)] if library else [],
           tokens=len(ids))


if __name__ == "__main__":
    main()
