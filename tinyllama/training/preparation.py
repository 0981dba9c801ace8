"""What stands before the first step: text, tokenizer, tokens, and the model with its first weights."""

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any

from tinyllama.backends import default_backend, load_backend
from tinyllama.backends.threads import choose_workers
from tinyllama.data import (
    PackedBatches,
    Tokens,
    WindowBatches,
    are_short,
    first_documents,
    packed_batches,
    read_corpus,
    split_corpus,
    tokenize,
    validation_windows,
)
from tinyllama.formats import read_checkpoint
from tinyllama.formats.checkpoint import build, check_layers
from tinyllama.formats.conversion import tokenizer_of
from tinyllama.models import Llama, LlamaConfig
from tinyllama.models.lora import trainable_size
from tinyllama.tokenizers import CharacterTokenizer, load_tokenizer, train_tokenizer
from tinyllama.training.evaluation import entropy_per_target, require_tokenizer
from tinyllama.training.settings import RunSettings

VALIDATION_BATCHES = 20
PLACES_OF_A_STORY = 68              # about, in a packed row: so a run can draw as many stories as it will see
FEWEST_STORIES, MOST_STORIES = 1_000, 200_000


@dataclass(frozen=True)
class Preparation:
    """All that a run is made from. `prepare` makes it from the settings, a resumed run from its own files."""

    settings: RunSettings
    tokenizer: Any
    train: Tokens
    held_back: Tokens       # what validates, as far as it is used
    corpus: dict            # what is worth saying of the text: "documents", "characters", and its "entropy" or None
    workers: int | None = None      # None until a model has been seen
    given_config: LlamaConfig | None = None     # of a resumed run, whose `from_model` may be gone

    @functools.cached_property
    def model(self):
        """The model as it begins: drawn from the seed, or that of `from_model`, perhaps with LoRA's updates."""
        settings = self.settings
        if settings.from_model is None:
            return Llama(self.config, backend=settings.backend, seed=settings.seed, workers=self.workers)
        given = _read_given(settings)._replace(config=self.config)
        return build(given, backend=settings.backend, workers=self.workers, lora=settings.lora)

    @functools.cached_property
    def config(self):
        """The configuration of the model."""
        if self.given_config is not None:
            return self.given_config
        if self.settings.from_model is None:
            return self.settings.model_config(self.tokenizer)
        given = _read_given(self.settings).config
        require_tokenizer(self.tokenizer, given)
        if self.settings.context > given.max_position_embeddings:
            raise ValueError(f"context: expected at most {given.max_position_embeddings}, as the model in "
                             f"{self.settings.from_model} has, got {self.settings.context}")
        return dataclasses.replace(given, dropout=self.settings.dropout)

    @functools.cached_property
    def is_packed(self):
        """Whether rows hold whole documents, and not windows of a long text."""
        return are_short(self.train, self.settings.context)

    @functools.cached_property
    def batches(self):
        """What training sees."""
        settings, kind = self.settings, PackedBatches if self.is_packed else WindowBatches
        return kind(self.train, batch_size=settings.batch_size, context=settings.context, seed=settings.seed)

    def validation(self):
        """What the run is evaluated with, the same every time: an iterable of batches."""
        shape = {"batch_size": self.settings.batch_size, "context": self.settings.context}
        if self.is_packed:
            return packed_batches(self.held_back, **shape)
        return validation_windows(self.held_back, **shape, batches=VALIDATION_BATCHES)


def prepare(settings):
    """The `Preparation` of a new run: reads the text, makes or loads the tokenizer, and encodes.

    Raises what is wrong with the text or the settings: FileNotFoundError, ValueError or TypeError.
    """
    settings = dataclasses.replace(settings, backend=settings.backend or default_backend())
    if settings.from_model is not None:
        _read_given(settings)       # what is wrong with it is said before a long text is read
    corpus = read_corpus(settings.data, seed=settings.seed, stories_wanted=_stories_wanted(settings))
    tokenizer = _tokenizer(settings, corpus)
    parts = split_corpus(corpus)
    train, held_back = (tokenize(part.documents, tokenizer) for part in parts)
    is_packed = are_short(train, settings.context)
    _require_enough(settings, train, held_back, is_packed)
    entropy = None
    if is_packed:
        held_back = first_documents(held_back, VALIDATION_BATCHES * settings.batch_size * settings.context)
        used = len(held_back.lengths)
        if parts[1].log_probabilities is not None:
            used_part = parts[1]._replace(log_probabilities=parts[1].log_probabilities[:used])
            entropy = entropy_per_target(used_part, tokenizer, int((held_back.lengths - 1).sum()))
    facts = {"documents": len(corpus.documents), "characters": sum(map(len, corpus.documents)), "entropy": entropy}
    preparation = Preparation(settings, tokenizer, train, held_back, facts)
    _ = preparation.batches, preparation.validation()       # raise what they refuse
    return dataclasses.replace(preparation, workers=_workers(preparation))


def _read_given(settings):
    """The `Checkpoint` of `from_model`."""
    if not settings.from_model.exists():
        raise FileNotFoundError(f"{settings.from_model}: expected the model that the run begins with and needs to go "
                                "on, got a path where nothing is")
    checkpoint = read_checkpoint(settings.from_model)
    check_layers(checkpoint)
    return checkpoint


def _workers(preparation):
    """How many threads share a step: decided once, because a sum over other parts has other roundings."""
    settings, backend = preparation.settings, load_backend(preparation.settings.backend)
    numbers = trainable_size(preparation.config, settings.lora)
    if settings.workers is not None or not backend.runs_in_threads:
        return settings.workers
    return choose_workers(math.ceil(settings.batch_size / settings.micro_steps), 4 * numbers)       # of float32


def _stories_wanted(settings):
    wanted = settings.steps * settings.batch_size * settings.context // PLACES_OF_A_STORY
    return min(max(wanted, FEWEST_STORIES), MOST_STORIES)


def _tokenizer(settings, corpus):
    """The tokenizer that the settings ask for: a given one, byte pairs, or one token for each character."""
    if settings.from_model is not None:
        return _tokenizer_of_model(settings)
    if settings.tokenizer is not None:
        return load_tokenizer(settings.tokenizer)
    if settings.vocab_size is not None:
        return train_tokenizer(corpus.documents, vocab_size=settings.vocab_size)
    return CharacterTokenizer.train("".join(corpus.documents))


def _tokenizer_of_model(settings):
    """That of the model that a run begins with, or a given one, which must not be of another size than the former."""
    own, problem = tokenizer_of(settings.from_model)
    if settings.tokenizer is None:
        if own is None:
            raise ValueError(f"{problem}; --tokenizer names the one that belongs to the model")
        return own
    given = load_tokenizer(settings.tokenizer)
    if own is not None and own.vocab_size != given.vocab_size:
        raise ValueError(f"tokenizer: expected none beside the model's own, or one of {own.vocab_size} tokens as it "
                         f"has, got {settings.tokenizer} with {given.vocab_size}")
    return given


def _require_enough(settings, train, held_back, is_packed):
    """Raise ValueError where the part that validates is too short for what it is to be evaluated with."""
    needed = settings.context + 1
    if is_packed:
        if not (held_back.lengths > 1).any():
            raise ValueError(f"{settings.data}: expected documents of at least two tokens each to validate with, "
                             f"got {len(held_back.lengths)} with {len(held_back.ids)} in all; use a longer text")
    elif len(held_back.ids) < needed:
        raise ValueError(
            f"{settings.data}: expected at least {10 * needed:,} tokens, so that the tenth of them that is kept for "
            f"validation holds a window of {settings.context} and one more, got "
            f"{len(train.ids) + len(held_back.ids):,}; use a longer text or a smaller context")
