"""A model whose matrices are held as whole numbers of eight or four bits, to write text with less memory."""

import numpy as np

from tinyllama.backends import Backend, default_backend, load_backend
from tinyllama.models.llama import Llama
from tinyllama.models.lora import require_merged
from tinyllama.models.network import LlamaNetwork
from tinyllama.nn.quantized_parameters import QuantizedParameters, not_trainable, quantize_matrix
from tinyllama.ops.quantized_linear import Quantized

GROUP_SIZE = 32     # columns of four bits that share a scale and an offset, where nobody says otherwise


def quantize(model, bits=8, group_size=None):
    """A new model for inference, with the matrices of `model` quantised; `model` stays as it is.

    bits: 8, or 4 for half of that memory and a larger error. group_size: how many columns of a row share a scale, and
    with 4 bits an offset; None is the whole row for 8 bits and 32 for 4. See `quantize_groups` in
    ops/quantized_linear.py.

    All weights of linear layers and the table of the embedding are quantised; norms and biases stay. `logits`, `loss`
    and `generate` work as before, on every backend; `loss_and_grads`, an optimizer and `tl.save` raise TypeError.
    `parameters` gives whatever the backend made of a `QuantizedWeight` for a matrix; its `unpack()` is one.

    Raises TypeError where `model` is no `Llama` or quantised already, ValueError for other bits, a matrix whose width
    the group does not divide, or weights that are not finite.
    """
    if isinstance(model, QuantizedLlama):
        raise TypeError("model: expected one with floating-point weights, got a quantised one")
    if not isinstance(model, Llama):
        raise TypeError(f"model: expected a Llama, got {model!r}")
    require_merged(model)
    if bits not in (4, 8):
        raise ValueError(f"bits: expected 4 or 8, got {bits!r}")
    if group_size is None and bits == 4:
        group_size = GROUP_SIZE

    def quantized(name):
        weight = model.parameters[name]
        return weight if weight.ndim == 1 else quantize_matrix(
            name, weight.__getitem__, weight.shape, bits=bits, group_size=group_size, zeros=model.backend.zeros)

    return QuantizedLlama(model.config, OnDemand(quantized), backend=model.backend, dtype=model.dtype,
                          workers=model.workers)


class OnDemand:
    """Weights by name, each made by make(name) when it is asked for and kept by whoever asks."""

    def __init__(self, make):
        self.make = make

    def __getitem__(self, name):
        return self.make(name)


class QuantizedLlama(Llama):
    """A LLaMA for inference, made of weights of which any may be quantised.

    weights: {name: `QuantizedWeight` or floating-point array}, by Hugging Face's names, see `QuantizedParameters`: each
    is asked for once and copied, so that `OnDemand` need not hold two of them at a time. backend, dtype, workers: as
    for `Llama`; dtype is that of the norms, the scales, and all that is computed.
    """

    def __init__(self, config, weights, *, backend=None, dtype="float32", workers=None):
        self.dtype, self.frozen, self.workers = np.dtype(dtype), (), workers
        self.backend = backend if isinstance(backend, Backend) else load_backend(backend or default_backend())
        LlamaNetwork.__init__(self, config, backend=self.backend, dtype=self.dtype)
        tied = {"lm_head.weight": "model.embed_tokens.weight"} if config.tie_word_embeddings else {}
        self.bind(QuantizedParameters(self.declarations(), weights, self.backend, dtype=self.dtype, other_names=tied),
                  self.backend)
        self._gradients = []

    def __deepcopy__(self, memo):
        """A model of its own with the same weights; the backend is shared."""
        def unpacked(name):
            weight = self.parameters[name]
            return weight.unpack() if isinstance(weight, Quantized) else weight

        return QuantizedLlama(self.config, OnDemand(unpacked), backend=self.backend, dtype=self.dtype,
                              workers=self.workers)

    def loss_and_grads(self, *args, **kwargs):
        """There are no gradients of whole numbers: raises TypeError."""
        raise not_trainable()
