"""A model whose matrices are held as whole numbers of eight bits, to write text with a quarter of the memory."""

from tinyllama.models.llama import Llama
from tinyllama.models.network import LlamaNetwork
from tinyllama.nn.quantized_parameters import QuantizedParameters, not_trainable


def quantize(model, bits=8):
    """A new model for inference, with the matrices of `model` quantised; `model` stays as it is.

    All weights of linear layers and the table of the embedding become int8 with one scale a row (see `quantize_rows` in
    ops/quantized_linear.py); norms and biases stay. `logits`, `loss` and `generate` work as before, on every backend;
    `loss_and_grads`, an optimizer and `tl.save` raise TypeError. `parameters` gives a `QuantizedWeight` for a matrix.

    Raises TypeError where `model` is no `Llama` or quantised already, ValueError for other bits than 8 or weights that
    are not finite.
    """
    if isinstance(model, QuantizedLlama):
        raise TypeError("model: expected one with floating-point weights, got a quantised one")
    if not isinstance(model, Llama):
        raise TypeError(f"model: expected a Llama, got {model!r}")
    if bits != 8:
        raise ValueError(f"bits: expected 8, got {bits!r}")
    return QuantizedLlama(model)


class QuantizedLlama(Llama):
    """A LLaMA whose matrices are of int8; made by `quantize` from another model, or from one of its own kind."""

    def __init__(self, model):
        self.dtype, self.frozen, self.workers, self.backend = model.dtype, (), model.workers, model.backend
        LlamaNetwork.__init__(self, model.config, backend=self.backend, dtype=self.dtype)
        tied = {"lm_head.weight": "model.embed_tokens.weight"} if self.config.tie_word_embeddings else {}
        self.bind(QuantizedParameters(self.declarations(), model.parameters, self.backend, other_names=tied),
                  self.backend)
        self._gradients = []

    def __deepcopy__(self, memo):
        """A model of its own with the same weights; the backend is shared."""
        return QuantizedLlama(self)

    def loss_and_grads(self, *args, **kwargs):
        """There are no gradients of whole numbers: raises TypeError."""
        raise not_trainable()
