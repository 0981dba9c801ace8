"""How well a model has learned the stories: what its loss lacks to their entropy, and what it writes itself.

    tinyllama train --preset stories --out runs/stories
    python benchmarks/stories.py runs/stories

Prints one JSON line: the loss on stories that no run has seen and the entropy of these same stories, in nats per token;
of the samples at temperature 1, the share that the grammar can parse and the share that was not in the training set.
"""

import argparse
import json
from pathlib import Path

import tinyllama as tl
from tinyllama.cli.evaluate import SEED, STORIES
from tinyllama.data import Tokens, read_corpus
from tinyllama.data.stories import is_story
from tinyllama.training.evaluation import evaluate_text


def write_stories(model, tokenizer, count):
    """Texts of the model, each from its first token to its end token."""
    texts = [[] for _ in range(count)]
    for tokens in model.generate([[tokenizer.bos_token_id]] * count, model.config.max_position_embeddings - 1):
        for text, token in zip(texts, tokens.tolist(), strict=True):
            if token >= 0 and token != tokenizer.eos_token_id:
                text.append(token)
    return [tokenizer.decode(text) for text in texts]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--samples", type=int, default=200)
    arguments = parser.parse_args()
    model, tokenizer = tl.load(arguments.run), tl.load_tokenizer(arguments.run)
    train = Tokens.open(arguments.run / "data", "train")
    seen = {tokenizer.decode(train.ids[start + 1:end - 1])      # without the first token and the end token
            for start, end in zip(train.starts[:-1], train.starts[1:], strict=True)}
    result = evaluate_text(model, tokenizer, read_corpus("stories", seed=SEED, stories_wanted=STORIES))
    texts = write_stories(model, tokenizer, arguments.samples)
    print(json.dumps({
        "loss": round(result.loss, 4), "entropy": round(result.entropy, 4), "excess": round(result.excess, 4),
        "samples": len(texts), "parsed": sum(map(is_story, texts)) / len(texts),
        "unseen": sum(text not in seen for text in texts) / len(texts), "trained_on": len(seen)}))


if __name__ == "__main__":
    main()
