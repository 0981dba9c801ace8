"""What a run can be told, and the presets: settings that are known to work together."""

import math
from dataclasses import dataclass
from pathlib import Path

from tinyllama.models import LlamaConfig
from tinyllama.models.lora import ALL_LINEAR, LoraSettings
from tinyllama.training.trainer import TrainingSettings

WARMUP_STEPS = 100


@dataclass(frozen=True)
class RunSettings:
    """What `tinyllama train` can be told; its help says what each means.

    The defaults are nanoGPT's recipe for a CPU, a model of characters. Raises ValueError naming the setting that is out
    of its range.
    """

    data: str = "shakespeare"
    out: Path | None = None
    from_model: Path | None = None
    lora_rank: int | None = None
    lora_alpha: float | None = None
    lora_targets: str | None = None
    tokenizer: Path | None = None
    vocab_size: int | None = None
    steps: int = 2000
    batch_size: int = 12
    micro_steps: int = 1
    context: int = 64
    layers: int = 4
    hidden_size: int = 128
    intermediate_size: int | None = None
    heads: int = 4
    key_value_heads: int | None = None
    initializer_range: float = 0.02
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup_steps: int | None = None
    final_fraction: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.1
    l2: float = 0.0
    max_grad_norm: float = 1.0
    dropout: float = 0.0
    label_smoothing: float = 0.0
    evaluate_every: int | None = None
    seed: int = 0
    backend: str | None = None
    workers: int | None = None

    def __post_init__(self):
        if self.vocab_size is not None and self.tokenizer is not None:
            raise ValueError(f"vocab_size: expected none beside a tokenizer, which has its own, got {self.vocab_size}")
        if self.evaluate_every is not None and self.evaluate_every < 1:
            raise ValueError(f"evaluate_every: expected at least 1, got {self.evaluate_every}")
        if self.micro_steps > max(self.batch_size, 1):
            raise ValueError(f"micro_steps: expected at most batch_size={self.batch_size}, since each has at least one "
                             f"row, got {self.micro_steps}")
        for name in ("lora_alpha", "lora_targets"):
            if getattr(self, name) is not None and self.lora_rank is None:
                raise ValueError(f"{name}: expected none without a lora_rank, got {getattr(self, name)!r}")
        if self.lora_rank is not None and self.from_model is None:
            raise ValueError("lora_rank: expected none without a model to begin with, whose weights stay as they are, "
                             f"got {self.lora_rank}")
        _ = self.lora
        self.training()

    @property
    def lora(self):
        """The `LoraSettings`, or None where all weights are trained."""
        if self.lora_rank is None:
            return None
        given = {"alpha": self.lora_alpha, "target_modules": self.lora_targets}
        if self.lora_targets is not None:
            names = tuple(name.strip() for name in self.lora_targets.split(","))
            if not all(names):
                raise ValueError(f"lora_targets: expected names with commas between, got {self.lora_targets!r}")
            given["target_modules"] = ALL_LINEAR if names == (ALL_LINEAR,) else names
        try:
            return LoraSettings(self.lora_rank, seed=self.seed,
                                **{name: value for name, value in given.items() if value is not None})
        except ValueError as error:
            raise ValueError(f"lora: {error}") from error

    def training(self):
        """The settings of the training loop. A short run warms up in a tenth of its steps."""
        warmup_steps = self.warmup_steps
        if warmup_steps is None:
            warmup_steps = min(WARMUP_STEPS, self.steps // 10)
        return TrainingSettings(
            steps=self.steps, optimizer=self.optimizer, learning_rate=self.learning_rate, schedule=self.schedule,
            warmup_steps=warmup_steps, final_fraction=self.final_fraction, momentum=self.momentum,
            weight_decay=self.weight_decay, l2=self.l2, max_grad_norm=self.max_grad_norm,
            label_smoothing=self.label_smoothing, micro_steps=self.micro_steps, seed=self.seed)

    def model_config(self, tokenizer):
        """The model that these settings describe; its MLP is 8/3 as wide as itself, rounded up to a multiple of 8."""
        intermediate_size = self.intermediate_size
        if intermediate_size is None:
            intermediate_size = 8 * math.ceil(self.hidden_size / 3)
        return LlamaConfig(
            vocab_size=tokenizer.vocab_size, hidden_size=self.hidden_size, intermediate_size=intermediate_size,
            num_hidden_layers=self.layers, num_attention_heads=self.heads, num_key_value_heads=self.key_value_heads,
            max_position_embeddings=self.context, initializer_range=self.initializer_range, tie_word_embeddings=True,
            dropout=self.dropout, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)


# The learning rates of a run that begins with a trained model, in full and with LoRA: at the rates of the presets the
# model would forget more than it learns.
FINE_TUNING_RATE, LORA_RATE = 1e-4, 1e-3
_STORIES = {"data": "stories", "vocab_size": 1050, "context": 160, "batch_size": 6, "layers": 2, "weight_decay": 0.02,
            "learning_rate": 6e-3, "final_fraction": 0.0}
PRESETS = {
    "pocket": {**_STORIES, "steps": 1000, "hidden_size": 64, "initializer_range": 0.12},
    "stories": {**_STORIES, "steps": 5400, "hidden_size": 96, "initializer_range": 0.09},
    "shakespeare": {"data": "shakespeare"},
}


def preset_for(data):
    """The name of the preset that suits a corpus: its own, or that of a text of characters."""
    return data if data in PRESETS else "shakespeare"
