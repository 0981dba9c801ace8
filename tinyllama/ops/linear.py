"""Linear: a matrix product with a weight, and perhaps a bias."""

from typing import Any, NamedTuple

from tinyllama.ops.array import array_namespace, as_rows, wanted


class LinearCache(NamedTuple):
    """Each factor of the product is the other one's derivative, so both are kept."""

    x: Any          # (..., I)
    weight: Any     # (O, I)
    has_bias: bool


def linear_forward(x, weight, bias=None):
    """y = x @ weightᵀ + bias.

    x: (..., I), weight: (O, I), bias: (O,) or None  ->  y: (..., O), cache.

    The weight is stored as (outputs, inputs), as every LLaMA checkpoint stores it. Derived in chapter 06.
    """
    y = as_rows(x) @ weight.T                                           # (N, I) @ (I, O) -> (N, O)
    if bias is not None:
        y = y + bias
    return y.reshape(*x.shape[:-1], weight.shape[0]), LinearCache(x, weight, bias is not None)


def linear_backward(dy, cache, needs=None):
    """Gradients of x, weight and bias, in the order of the arguments; None for a bias that was not there.

    dy: (..., O)  ->  dx: (..., I), dweight: (O, I), dbias: (O,).

        dbias   = Σ rows of dy
        dweight = dyᵀ @ x           summed over all rows, because all rows share the weight
        dx      = dy @ weight       each output spreads its gradient over the inputs by their weights
    """
    x, weight, has_bias = cache
    needs_x, needs_weight, needs_bias = wanted(needs, 3)
    xp = array_namespace(dy)
    dy_rows = as_rows(dy)                                               # (N, O)
    dbias = xp.sum(dy_rows, axis=0) if has_bias and needs_bias else None        # (N, O) -> (O,)
    dweight = dy_rows.T @ as_rows(x) if needs_weight else None          # (O, N) @ (N, I) -> (O, I)
    dx = (dy_rows @ weight).reshape(x.shape) if needs_x else None       # (N, O) @ (O, I) -> (N, I) -> (..., I)
    return dx, dweight, dbias
