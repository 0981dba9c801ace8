"""Small models that can chat, in every way that the commands open one. What they say is nonsense, and always the same.
"""

import gguf_files
import numpy as np

import tinyllama as tl
from tinyllama.tokenizers import BytePairTokenizer, train_tokenizer

TEXT = "the cat sat on the mat.\n" * 20
TEMPLATE = ("{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
            "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def tokenizer():
    """Bytes, some merges, <|im_start|> and <|im_end|>; no end token, which the template alone then names."""
    trained = train_tokenizer(TEXT, 270)
    words = [trained.token_bytes(token) for token in range(trained.vocab_size) if trained.token_bytes(token)]
    return BytePairTokenizer([*words, "<|im_start|>", "<|im_end|>"], [(m.left, m.right) for m in trained.merges])


def model(vocab_size, **changes):
    """Weights so large that the most probable token depends on all that was read."""
    sizes = dict(vocab_size=vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                 num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=300)
    made = tl.Llama(tl.LlamaConfig(**sizes | changes), backend="numpy")
    rng = np.random.default_rng(3)
    for array in made.parameters.values():
        array[...] = rng.normal(1.0 if array.ndim == 1 else 0.0, 0.3, array.shape)
    return made


def write_directory(path, *, template=TEMPLATE, **changes):
    """A directory of Hugging Face."""
    words = tokenizer()
    tl.save(model(words.vocab_size, **changes), path)
    words.save(path)
    if template is not None:
        (path / "chat_template.jinja").write_text(template, encoding="utf-8")
    return path


def write_gguf(path, *, kind="Q8_0", template=TEMPLATE, **changes):
    """A GGUF file with the same tokenizer, whose matrices are held as `kind`."""
    from tinyllama.tokenizers.byte_level import printable
    words = tokenizer()
    tokens = [piece if isinstance(piece, str) else printable(piece) for piece in words.vocabulary]
    extra = {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if isinstance(piece, str) else 1 for piece in words.vocabulary],
        "tokenizer.ggml.merges": [f"{printable(m.left)} {printable(m.right)}" for m in words.merges],
        **({} if template is None else {"tokenizer.chat_template": template}),
    }
    return gguf_files.write_model(path, model(words.vocab_size, **changes), kind=kind, **extra)
