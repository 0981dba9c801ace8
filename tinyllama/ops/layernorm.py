"""LayerNorm: bring each row to mean 0 and variance 1, then stretch and shift each feature."""

from typing import Any, NamedTuple

from tinyllama.ops.array import array_namespace, as_rows, wanted


class LayerNormCache(NamedTuple):
    """The arguments, and two numbers a row. The normalised row is cheaper to recompute than to store."""

    x: Any          # (..., D)
    weight: Any     # (D,)
    mean: Any       # (..., 1)
    rstd: Any       # (..., 1)
    has_bias: bool


def layernorm_forward(x, weight, bias=None, *, eps=1e-5):
    """y = n · weight + bias,   n = (x - mean(x)) · rstd,   rstd = 1 / sqrt(var(x) + eps), both along the last axis.

    x: (..., D), weight: (D,), bias: (D,) or None  ->  y: (..., D), cache.

    The variance is the mean square of the centred row, divided by D and not by D - 1; eps keeps a row of equal numbers
    from dividing by zero.
    Source: Ba, Kiros & Hinton 2016, eq. 4. Derived in chapter 07.
    """
    xp = array_namespace(x)
    mean = xp.mean(x, axis=-1, keepdims=True)                           # (..., D) -> (..., 1)
    centred = x - mean                                                  # (..., D)
    rstd = 1 / xp.sqrt(xp.mean(centred * centred, axis=-1, keepdims=True) + eps)        # (..., D) -> (..., 1)
    n = centred * rstd                                                  # (..., D)
    y = n * weight                                                      # (..., D)
    if bias is not None:
        y = y + bias
    return y, LayerNormCache(x, weight, mean, rstd, bias is not None)


def layernorm_backward(dy, cache, needs=None):
    """Gradients of x, weight and bias; None for a bias that was not there.

    dy: (..., D)  ->  dx: (..., D), dweight: (D,), dbias: (D,).

        dbias   = Σ rows of dy
        dweight = Σ rows of dy · n
        dn      = dy · weight
        dx      = rstd · (dn - mean(dn) - n · mean(dn · n))     the first mean comes from mean(x), the second from rstd:
                                                                both depend on every element of the row
    """
    x, weight, mean, rstd, has_bias = cache
    needs_x, needs_weight, needs_bias = wanted(needs, 3)
    xp = array_namespace(dy)
    n = (x - mean) * rstd                                               # (..., D)
    dbias = xp.sum(as_rows(dy), axis=0) if has_bias and needs_bias else None    # (..., D) -> (N, D) -> (D,)
    dweight = xp.sum(as_rows(dy * n), axis=0) if needs_weight else None         # (..., D) -> (N, D) -> (D,)
    if not needs_x:
        return None, dweight, dbias
    dn = dy * weight                                                    # (..., D)
    dx = rstd * (dn - xp.mean(dn, axis=-1, keepdims=True) - n * xp.mean(dn * n, axis=-1, keepdims=True))
    return dx, dweight, dbias
