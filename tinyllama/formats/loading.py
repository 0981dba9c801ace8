"""What a path is, found out from its contents, and the reader that belongs to it."""

from pathlib import Path

from tinyllama.formats.checkpoint import build
from tinyllama.models.lora import require_merged

REFUSED = ("a file of PyTorch, which is a pickle: loading one can run any code that somebody put into it. Convert it "
           "where you trust it, with transformers: AutoModelForCausalLM.from_pretrained(DIRECTORY)"
           ".save_pretrained(NEW_DIRECTORY) writes safetensors, which hold numbers only")


def load(path, backend=None, dtype="float32", *, frozen=(), workers=None, quantization=None, lora=None):
    """The model at `path`: a directory of Hugging Face, one that `save` wrote, or a file of GGUF or llama2.c.

    backend, dtype, frozen, workers: see `Llama`; the numbers of the file become `dtype`. quantization: None for floats;
    "stored" keeps matrices as the whole numbers that the file holds, and the others as floats; "int8" makes them int8
    with one scale a row, "int4" of four bits with a scale and an offset for each 32 columns. A quantised model writes
    text and is not trained. lora: `LoraSettings`, to train low-rank updates beside frozen weights. A directory that
    holds an adapter alone is the model that it names, with the updates merged.

    The weights are read a few rows at a time: beside them, little memory is needed. Raises FileNotFoundError where
    there is nothing or a part is missing, ValueError where the file is damaged, of another kind, or of a model that is
    not supported. Each names the file, what was expected and what came.
    """
    return build(read_checkpoint(path), backend=backend, dtype=dtype, frozen=frozen, workers=workers,
                 quantization=quantization, lora=lora)


def read_checkpoint(path):
    """The `Checkpoint` at a path, whichever format it has: the configuration, and tensors that are not yet read.

    Raises as `load` does.
    """
    return _reader(Path(path)).read_checkpoint(path)


def save(model, path, dtype=None, **settings):
    """Write a model: as the directory `path` of Hugging Face, or as a file of llama2.c where `path` ends in ".bin".

    A directory is loaded by `load` and, for the families of architectures.py, by `transformers`, with the same logits.
    dtype: "float16", "bfloat16", "float32" or "float64"; None is the model's. The other settings are those of `save` in
    huggingface.py. A file of llama2.c holds float32. Raises ValueError where the format cannot hold the model, OSError
    where it cannot be written; what was there before then stays.
    """
    require_merged(model)
    if Path(path).suffix == ".bin" and not Path(path).is_dir():
        from tinyllama.formats import llama2c
        if dtype not in (None, "float32") or settings:
            raise ValueError(f"{path}: expected no settings for a file of llama2.c, which holds float32, "
                             f"got {settings | {'dtype': dtype}}")
        return llama2c.save(model, path)
    from tinyllama.formats import huggingface
    return huggingface.save(model, path, dtype, **settings)


def _reader(path):
    """The module that reads what is at a path."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected a model (a directory with config.json and weights, a GGUF file, or "
                                "one of llama2.c), got a path where nothing is")
    if path.is_dir():
        from tinyllama.formats import huggingface, peft
        return peft if peft.is_adapter(path) else huggingface
    with open(path, "rb") as file:
        start = file.read(9)
    if start[:4] == b"GGUF":
        from tinyllama.formats import gguf
        return gguf
    if is_pickle(start):
        raise ValueError(f"{path}: expected a directory, GGUF or llama2.c, got {REFUSED}")
    if start[8:] == b"{":
        raise ValueError(f"{path}: expected a directory with config.json and weights, got a file of safetensors; "
                         "load the directory that it is in")
    from tinyllama.formats import llama2c
    return llama2c


def is_pickle(start):
    """Whether a file with these first bytes is a pickle, or the zip archive around one that PyTorch writes.

    A pickle begins with 128 and its version, and the third byte is an instruction. In a file of llama2.c the first four
    bytes are a number whose upper bytes are zero.
    """
    return start[:4] == b"PK\x03\x04" or (
        start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") and start[2:4] != b"\0\0")
