"""How the models cut a text into words before any merge, by the names that GGUF files give these ways.

A tokenizer.json spells its patterns out; the tiktoken format, vocab.json and GGUF do not, so they are kept here. The
sources: GPT-2, Radford et al. 2019 and its encoder.py; Llama 3, meta-llama/llama3, llama/tokenizer.py; Qwen2, the
tokenizer.json of Qwen/Qwen2-7B; SmolLM2, the tokenizer.json of HuggingFaceTB/SmolLM2-135M, whose Digits step cuts out
every digit before GPT-2's pattern; the names, llama.cpp, src/llama-vocab.cpp.
"""

from typing import NamedTuple

from tinyllama.tokenizers.byte_level import GPT2_PATTERN

# Contractions in any case; letters with one other sign before them; digits in threes; signs with line breaks after.
LLAMA3_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                  r"|\s*[\r\n]+|\s+(?!\S)|\s+")

# The same, but a digit is a word of its own.
QWEN2_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")

DIGIT_PATTERN = r"\p{N}"


class Splitting(NamedTuple):
    """What happens to a text before the merges, as the arguments of `BytePairTokenizer` are named."""

    patterns: tuple
    whole_words: bool = False
    normalization: str | None = None
    adds_bos: bool = False


GPT2 = Splitting((GPT2_PATTERN,))
LLAMA3 = Splitting((LLAMA3_PATTERN,), whole_words=True, adds_bos=True)
QWEN2 = Splitting((QWEN2_PATTERN,), normalization="NFC")
SMOLLM = Splitting((DIGIT_PATTERN, GPT2_PATTERN))

SPLITTINGS = {
    "gpt-2": GPT2, "phi-2": GPT2, "olmo": GPT2, "mpt": GPT2,
    "llama-bpe": LLAMA3, "llama3": LLAMA3, "llama-v3": LLAMA3, "falcon3": LLAMA3,
    "qwen2": QWEN2, "deepseek-r1-qwen": QWEN2,
    "smollm": SMOLLM, "starcoder": SMOLLM, "refact": SMOLLM, "command-r": SMOLLM,
    # what llama.cpp falls back to: signs; GPT-2's words; digits, and of long runs of them threes
    "default": Splitting((r"[\p{P}\$\+<=>\^~\|]+", GPT2_PATTERN, r"\p{N}+", "[0-9][0-9][0-9]")),
}
