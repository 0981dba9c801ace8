"""What tinyllama and transformers are both given: small LLaMAs of every kind, weights and a batch, equal to the bit.

The numbers come from the raw bits of a generator, which NumPy never changes, and not from `Llama`'s own first weights:
the golden file stays valid when the library draws them differently. Norms are not 1 and biases not 0, and no heads or
projections are as wide as they usually are, so that two that were mixed up would not fit.
"""

import zlib

import numpy as np

import tinyllama as tl

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 400}
CASES = {
    "grouped-tied": dict(
        vocab_size=31, hidden_size=20, intermediate_size=26, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=6, max_position_embeddings=40, rms_norm_eps=1e-5, tie_word_embeddings=True),
    "multi-head": dict(
        vocab_size=29, hidden_size=18, intermediate_size=23, num_hidden_layers=3, num_attention_heads=3,
        max_position_embeddings=17, rms_norm_eps=1e-6),
    "multi-query-llama3": dict(
        vocab_size=33, hidden_size=24, intermediate_size=21, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=500000.0,
        rope_scaling=LLAMA3),
    "biases": dict(
        vocab_size=27, hidden_size=24, intermediate_size=17, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=3, max_position_embeddings=19, rms_norm_eps=1e-2, attention_bias=True, mlp_bias=True),
    "linear-rope-tied": dict(
        vocab_size=35, hidden_size=16, intermediate_size=28, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=10, max_position_embeddings=23, rms_norm_eps=1e-5, rope_theta=700.0,
        rope_scaling={"rope_type": "linear", "factor": 2.5}, tie_word_embeddings=True),
}


def config(case):
    return tl.LlamaConfig(**CASES[case])


def ours(case, dtype="float64", backend="numpy"):
    """The model of a case, every weight drawn anew from the name of the case and of the parameter."""
    model = tl.Llama(config(case), dtype=dtype, backend=backend)
    for name, parameter in model.parameters.items():
        center, spread = (1.0, 0.5) if "norm" in name else (0.0, 1.0) if "embed" in name else (0.0, 0.4)
        weights = center + spread * between_minus_one_and_one(f"{case}/{name}", parameter.shape)
        parameter[...] = model.backend.asarray(weights.astype(dtype))
    return model


def batch(case):
    """ids, targets: (3, 11) each. Half of the vocabulary, so that tokens repeat; a quarter of the targets is -100."""
    half = CASES[case]["vocab_size"] // 2
    ids, targets = (np.int64(half * (1 + between_minus_one_and_one(f"{case}/{name}", (3, 11))) / 2)
                    for name in ("ids", "targets"))
    targets.ravel()[1::4] = -100
    return ids, targets


def run(case, dtype="float64", backend="numpy"):
    """{"logits", "loss", parameter name: gradient} of our model, as NumPy arrays."""
    model, (ids, targets) = ours(case, dtype, backend), batch(case)
    loss, gradients = model.loss_and_grads(ids, targets)
    results = {"logits": model.logits(ids), "loss": loss, **gradients}
    return {name: model.backend.to_numpy(value) for name, value in results.items()}


def errors(got, expected):
    """{name: error}: the largest difference; for a gradient, relative to its largest element."""
    assert set(got) == set(expected)
    found = {}
    for name, value in expected.items():
        assert got[name].shape == value.shape, name
        scale = 1.0 if name in ("logits", "loss") else np.max(np.abs(value))
        found[name] = float(np.max(np.abs(got[name] - value)) / scale)
    return found


def assert_close(got, expected, *, logits, gradients):
    """Raise AssertionError unless the logits (and the loss) and every gradient are as close as that."""
    too_far = {name: error for name, error in errors(got, expected).items()
               if not error <= (logits if name in ("logits", "loss") else gradients)}
    assert not too_far


def between_minus_one_and_one(name, shape):
    bits = np.random.PCG64(zlib.crc32(name.encode())).random_raw(int(np.prod(shape)))
    return ((bits >> np.uint64(11)) * 2.0 ** -52 - 1).reshape(shape)
