"""Checkpoints: a model on disk. Ours is the directory that Hugging Face uses, so that `transformers` loads it too."""

from tinyllama.formats.huggingface import load, save

__all__ = ["load", "save"]
