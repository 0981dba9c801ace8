"""The AdamW update in one pass over four arrays. Formulas: `tinyllama/ops/adamw.py`; derived in chapter 12."""

import numpy as np

from tinyllama.backends.cpu.compiling import contiguous, kernel, require_flat, require_float
from tinyllama.backends.cpu.slices import run_over_slices
from tinyllama.ops.array import require_shape


def adamw_step(weight, gradient, m, v, *, step, learning_rate, betas, eps, weight_decay, l2=0.0, gradient_scale=1.0):
    """Move the weights against the gradient, each by its own scale; weight, m and v, (N,) each, are written."""
    require_float(weight, "weight")
    require_flat(weight, "weight")
    for name, array in (("gradient", gradient), ("m", m), ("v", v)):
        require_shape(array, weight.shape, name, "the weights")
    beta1, beta2 = betas
    settings = (gradient_scale, l2, beta1, 1 - beta1, beta2, 1 - beta2, 1 - learning_rate * weight_decay,
                learning_rate / (1 - beta1**step), 1 / (1 - beta2**step), eps)
    settings = [weight.dtype.type(number) for number in settings]
    arrays = (weight, contiguous(gradient, weight.dtype), m, v)
    run_over_slices(lambda start, stop: _step(*(array[start:stop] for array in arrays), *settings), weight.size)


@kernel("(T[::1], T[::1], T[::1], T[::1], T, T, T, T, T, T, T, T, T, T)")
def _step(weight, gradient, m, v, gradient_scale, l2, keep_m, add_m, keep_v, add_v, shrink, rate, v_scale, eps):
    for i in range(weight.size):
        g = gradient[i] * gradient_scale + l2 * weight[i]
        m[i] = keep_m * m[i] + add_m * g
        v[i] = keep_v * v[i] + add_v * g * g
        weight[i] = shrink * weight[i] - rate * m[i] / (np.sqrt(v[i] * v_scale) + eps)
