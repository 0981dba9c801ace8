"""Whole networks, composed of layers."""

from tinyllama.models.config import LlamaConfig
from tinyllama.models.llama import Llama

__all__ = ["Llama", "LlamaConfig"]
