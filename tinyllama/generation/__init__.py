"""From logits to text: the cache of keys and values, and the loop that draws one token after another."""

from tinyllama.generation.generate import ENDED, ContextLimitWarning, Sampling, generate
from tinyllama.generation.kv_cache import KVCache
from tinyllama.generation.session import Session

__all__ = ["ENDED", "ContextLimitWarning", "KVCache", "Sampling", "Session", "generate"]
