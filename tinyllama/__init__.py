"""A LLaMA from scratch on NumPy, every gradient derived and written by hand.

    import tinyllama as tl

The names below are loaded when they are first used: importing the package reads no other file.
"""

import importlib

_HOME = {
    "AdamW": "tinyllama.training.optimizers",
    "GradientError": "tinyllama.gradients",
    "Llama": "tinyllama.models.llama",
    "LlamaConfig": "tinyllama.models.config",
    "LoraSettings": "tinyllama.models.lora",
    "SGD": "tinyllama.training.optimizers",
    "add_lora": "tinyllama.models.lora",
    "available_backends": "tinyllama.backends",
    "gradcheck": "tinyllama.gradients",
    "gradcheck_model": "tinyllama.gradients",
    "load": "tinyllama.formats",
    "default_backend": "tinyllama.backends",
    "load_adapter": "tinyllama.formats.peft",
    "load_backend": "tinyllama.backends",
    "load_tokenizer": "tinyllama.tokenizers",
    "merge_lora": "tinyllama.models.lora",
    "quantize": "tinyllama.models.quantization",
    "save": "tinyllama.formats",
    "save_adapter": "tinyllama.formats.peft",
    "step_sweep": "tinyllama.gradients",
    "train_tokenizer": "tinyllama.tokenizers",
}

__all__ = sorted(_HOME)


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'tinyllama' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__():
    return __all__
