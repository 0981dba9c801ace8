"""A model as the commands open it: its weights in the form that was asked for, and its tokenizer."""

import json
from pathlib import Path

WEIGHTS = {"float32": None, "int8": "int8", "int4": "int4"}     # and how `load` is told
CHOICES = ("auto", *WEIGHTS)
FLOATS = ("F64", "F32", "F16", "BF16")                          # kinds of tensors that hold no whole numbers
TOKENIZER_BESIDE = "tokenizer.bin"                              # where llama2.c has the tokenizer of a model
WEIGHTS_HELP = ("auto, float32, int8 or int4: with fewer bits less memory, faster, and less exact; auto is as the file "
                "holds them where it holds whole numbers, and float32 where not.")


def check_weights(weights, option="--weights"):
    """Raise ValueError for a name that is no choice of weights."""
    if weights not in CHOICES:
        raise ValueError(f"{option}: expected one of {', '.join(CHOICES)}, got {weights!r}")


def open_model(path, *, weights="auto", backend=None, tokenizer=None):
    """(model, tokenizer) of a path; see `WEIGHTS_HELP`. tokenizer: its path, if it does not lie with the model.

    The kernels are compiled under a bar where that is due. Raises what `load` and `load_tokenizer` raise.
    """
    from rich.console import Console

    from tinyllama.backends.compilation import compile_with_bar
    from tinyllama.formats.checkpoint import build
    from tinyllama.formats.loading import read_checkpoint
    from tinyllama.tokenizers import load_tokenizer
    check_weights(weights)
    checkpoint = read_checkpoint(path)
    words = load_tokenizer(tokenizer or tokenizer_path(path))
    model = build(checkpoint, backend=backend, quantization=_quantization(checkpoint, weights))
    compile_with_bar(model.backend, model.dtype, Console(stderr=True))
    return model, words


def tokenizer_path(path):
    """Where the tokenizer of a model lies: beside a file of llama2.c, in everything else."""
    return path.with_name(TOKENIZER_BESIDE) if path.suffix == ".bin" and not path.is_dir() else path


def weight_bytes(model):
    """The memory of all weights."""
    return sum(weight.nbytes for weight in model.parameters.values())


def turn_ends(path):
    """The end tokens that generation_config.json names, beside those of config.json; none where there is no such file.

    Raises ValueError where it holds something else.
    """
    file = Path(path) / "generation_config.json"
    if not file.is_file():
        return []
    try:
        ends = json.loads(file.read_bytes()).get("eos_token_id")
        ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
        if not all(type(token) is int for token in ends):
            raise ValueError(f"eos_token_id: expected tokens, got {str(ends)[:80]}")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file}: expected a JSON object with eos_token_id, got another ({error})") from error
    return ends


def _quantization(checkpoint, weights):
    if weights != "auto":
        return WEIGHTS[weights]
    return "stored" if any(tensor.kind not in FLOATS for tensor in checkpoint.tensors.values()) else None
