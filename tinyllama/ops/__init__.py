"""The book: one operation a file, forward and backward side by side, in plain array code.

    y, cache            = NAME_forward(x, weight, ..., *, settings)
    dx, dweight, ...    = NAME_backward(dy, cache, needs=None)

The positional floating-point arrays are what is differentiated; everything else is a keyword, but for `ids`, which are
positional integers. `backward` returns one gradient for each differentiable argument, in their order: bare if there is
one, a tuple if there are several. `needs`, a tuple of booleans, leaves out those that nobody will use: None stands in
their place. Where there is only one gradient, `needs` changes nothing. An operation writes to none of its arguments,
keeps no state, and returns the dtype it was given; numbers among its settings are Python's, since a NumPy float64 would
widen float32. A cache is private to its pair, and may share memory with the result: do not write into either.

In the formulas `@` is the matrix product and `·` goes element by element; Σ and mean without bounds run along the last
axis; `d` before a name is the gradient of the loss with respect to it, an array of its shape. The chapters that derive
them are named; they are being written.

An operation that calls another takes it as a keyword of that name (`softmax_forward` in attention), so that a backend
can hand it its own. The files `array`, `attention_mask` and `counter_random` hold helpers; helpers, such as `sigmoid`
inside swiglu, are not replaced.

Six functions come without a backward, because nothing is differentiated through them: `adamw_step` and `sgd_step`
(which update in place), `global_norm`, `sample`, `quantized_linear` and `dequantize`.
"""

from tinyllama.ops.adamw import adamw_step
from tinyllama.ops.attention import attention_backward, attention_forward
from tinyllama.ops.attention_tiled import attention_tiled_backward, attention_tiled_forward
from tinyllama.ops.binary_cross_entropy import binary_cross_entropy_backward, binary_cross_entropy_forward
from tinyllama.ops.cross_entropy import cross_entropy_backward, cross_entropy_forward
from tinyllama.ops.dropout import dropout_backward, dropout_forward
from tinyllama.ops.embedding import embedding_backward, embedding_forward
from tinyllama.ops.gelu import gelu_backward, gelu_forward
from tinyllama.ops.gradient_norm import global_norm
from tinyllama.ops.layernorm import layernorm_backward, layernorm_forward
from tinyllama.ops.linear import linear_backward, linear_forward
from tinyllama.ops.log_softmax import log_softmax_backward, log_softmax_forward
from tinyllama.ops.mse import mse_backward, mse_forward
from tinyllama.ops.quantized_linear import dequantize, quantized_linear
from tinyllama.ops.relu import relu_backward, relu_forward
from tinyllama.ops.rmsnorm import rmsnorm_backward, rmsnorm_forward
from tinyllama.ops.rope import rope_backward, rope_forward
from tinyllama.ops.sampling import sample
from tinyllama.ops.sgd import sgd_step
from tinyllama.ops.sigmoid import sigmoid_backward, sigmoid_forward
from tinyllama.ops.silu import silu_backward, silu_forward
from tinyllama.ops.softmax import softmax_backward, softmax_forward
from tinyllama.ops.swiglu import swiglu_backward, swiglu_forward

OPS = {
    function.__name__: function
    for function in (
        embedding_forward, embedding_backward, linear_forward, linear_backward,
        softmax_forward, softmax_backward, log_softmax_forward, log_softmax_backward,
        cross_entropy_forward, cross_entropy_backward, mse_forward, mse_backward,
        sigmoid_forward, sigmoid_backward, binary_cross_entropy_forward, binary_cross_entropy_backward,
        relu_forward, relu_backward, gelu_forward, gelu_backward, silu_forward, silu_backward,
        swiglu_forward, swiglu_backward, rmsnorm_forward, rmsnorm_backward, layernorm_forward, layernorm_backward,
        rope_forward, rope_backward, attention_forward, attention_backward,
        attention_tiled_forward, attention_tiled_backward, dropout_forward, dropout_backward,
        adamw_step, sgd_step, global_norm, sample, quantized_linear, dequantize,
    )
}

DIFFERENTIABLE = tuple(name.removesuffix("_forward") for name in OPS if name.endswith("_forward"))

__all__ = ["DIFFERENTIABLE", "OPS", *OPS]
