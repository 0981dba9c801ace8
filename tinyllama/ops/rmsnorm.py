"""RMSNorm: bring each row to unit root mean square, then stretch each feature."""

from typing import Any, NamedTuple

from tinyllama.ops.array import array_namespace, as_rows, wanted


class RMSNormCache(NamedTuple):
    """The arguments, and one number a row. The normalised row is cheaper to recompute than to store."""

    x: Any          # (..., D)
    weight: Any     # (D,)
    rstd: Any       # (..., 1)


def rmsnorm_forward(x, weight, *, eps=1e-5):
    """y = n · weight,   n = x · rstd,   rstd = 1 / sqrt(mean(x²) + eps), the mean along the last axis.

    x: (..., D), weight: (D,)  ->  y: (..., D), cache.

    rstd is the reciprocal of the root mean square, named as in LayerNorm, where it is that of the standard deviation.
    Source: Zhang & Sennrich 2019, eq. 4; eps keeps a row of zeros from dividing by zero. Derived in chapter 07.
    """
    xp = array_namespace(x)
    rstd = 1 / xp.sqrt(xp.mean(x * x, axis=-1, keepdims=True) + eps)    # (..., D) -> (..., 1)
    n = x * rstd                                                        # (..., D)
    return n * weight, RMSNormCache(x, weight, rstd)


def rmsnorm_backward(dy, cache, needs=None):
    """Gradients of x and weight.

    dy: (..., D)  ->  dx: (..., D), dweight: (D,).

        dweight = Σ rows of dy · n                      all rows share the weight
        dn      = dy · weight
        dx      = rstd · (dn - n · mean(dn · n))        every element of a row moves its rstd, hence the mean
    """
    x, weight, rstd = cache
    needs_x, needs_weight = wanted(needs, 2)
    xp = array_namespace(dy)
    n = x * rstd                                                        # (..., D)
    dweight = xp.sum(as_rows(dy * n), axis=0) if needs_weight else None         # (..., D) -> (N, D) -> (D,)
    if not needs_x:
        return None, dweight
    dn = dy * weight                                                    # (..., D)
    dx = rstd * (dn - n * xp.mean(dn * n, axis=-1, keepdims=True))      # (..., D)
    return dx, dweight
