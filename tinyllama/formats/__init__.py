"""Checkpoints: a model on disk, read in every format of the LLaMA family and written in two.

`load` and `save` are here. Each format has a reader that gives a `Checkpoint` (checkpoint.py): huggingface.py for
directories, with the families of architectures.py; llama2c.py; gguf.py.
"""

from tinyllama.formats.loading import load, read_checkpoint, save

__all__ = ["load", "read_checkpoint", "save"]
