"""The SGD update in one pass over three arrays. Formulas: `tinyllama/ops/sgd.py`; derived in chapter 12."""

from tinyllama.backends.cpu.compiling import contiguous, kernel, require_flat, require_float
from tinyllama.backends.cpu.slices import run_over_slices
from tinyllama.ops.array import require_shape


def sgd_step(weight, gradient, velocity, *, learning_rate, momentum, weight_decay, l2=0.0, gradient_scale=1.0):
    """Move the weights against the gradient and what is left of all earlier ones.

    weight, gradient, velocity: (N,); weight and velocity are written. Raises ValueError where shapes differ.
    """
    require_float(weight, "weight")
    require_flat(weight, "weight")
    require_shape(gradient, weight.shape, "gradient", "weight")
    require_shape(velocity, weight.shape, "velocity", "weight")
    settings = (gradient_scale, l2, momentum, 1 - learning_rate * weight_decay, learning_rate)
    settings = [weight.dtype.type(number) for number in settings]
    arrays = (weight, contiguous(gradient, weight.dtype), velocity)
    run_over_slices(lambda start, stop: _step(*(array[start:stop] for array in arrays), *settings), weight.size)


@kernel("(T[::1], T[::1], T[::1], T, T, T, T, T)")
def _step(weight, gradient, velocity, gradient_scale, l2, momentum, shrink, learning_rate):
    for i in range(weight.size):
        g = gradient[i] * gradient_scale + l2 * weight[i]
        velocity[i] = momentum * velocity[i] + g
        weight[i] = shrink * weight[i] - learning_rate * velocity[i]
