"""LayerNorm, wrong: mean and variance both depend on every element of the row, and all rows share weight and bias."""

from tinyllama.ops.array import array_namespace, as_rows
from tinyllama.ops.layernorm import LayerNormCache


def takes_mean_and_rstd_for_constants(dy, cache, needs=None):
    """dx is rstd · dn alone, as if neither the mean nor the variance depended on x."""
    x, weight, mean, rstd, has_bias = cache
    xp = array_namespace(dy)
    n = (x - mean) * rstd                                               # (..., D)
    dbias = xp.sum(as_rows(dy), axis=0) if has_bias else None           # (N, D) -> (D,)
    dweight = xp.sum(as_rows(dy * n), axis=0)                           # (N, D) -> (D,)
    return rstd * dy * weight, dweight, dbias


def takes_the_mean_for_a_constant(dy, cache, needs=None):
    """The term mean(dn) of dx is left out, as in RMSNorm."""
    x, weight, mean, rstd, has_bias = cache
    xp = array_namespace(dy)
    n, dn = (x - mean) * rstd, dy * weight                              # (..., D), (..., D)
    dbias = xp.sum(as_rows(dy), axis=0) if has_bias else None           # (N, D) -> (D,)
    dweight = xp.sum(as_rows(dy * n), axis=0)                           # (N, D) -> (D,)
    dx = rstd * (dn - n * xp.mean(dn * n, axis=-1, keepdims=True))      # (..., D)
    return dx, dweight, dbias


def takes_the_variance_for_a_constant(dy, cache, needs=None):
    """The term n · mean(dn · n) of dx is left out, as if rstd did not depend on x."""
    x, weight, mean, rstd, has_bias = cache
    xp = array_namespace(dy)
    n, dn = (x - mean) * rstd, dy * weight                              # (..., D), (..., D)
    dbias = xp.sum(as_rows(dy), axis=0) if has_bias else None           # (N, D) -> (D,)
    dweight = xp.sum(as_rows(dy * n), axis=0)                           # (N, D) -> (D,)
    dx = rstd * (dn - xp.mean(dn, axis=-1, keepdims=True))              # (..., D)
    return dx, dweight, dbias


def forgets_the_weight(dy, cache, needs=None):
    """dx is made of dy instead of dy · weight."""
    x, _, mean, rstd, has_bias = cache
    xp = array_namespace(dy)
    n = (x - mean) * rstd                                               # (..., D)
    dbias = xp.sum(as_rows(dy), axis=0) if has_bias else None           # (N, D) -> (D,)
    dweight = xp.sum(as_rows(dy * n), axis=0)                           # (N, D) -> (D,)
    dx = rstd * (dy - xp.mean(dy, axis=-1, keepdims=True) - n * xp.mean(dy * n, axis=-1, keepdims=True))
    return dx, dweight, dbias


def forgets_to_divide_by_the_deviation(dy, cache, needs=None):
    """dx is not multiplied by rstd."""
    x, weight, mean, rstd, has_bias = cache
    xp = array_namespace(dy)
    n, dn = (x - mean) * rstd, dy * weight                              # (..., D), (..., D)
    dbias = xp.sum(as_rows(dy), axis=0) if has_bias else None           # (N, D) -> (D,)
    dweight = xp.sum(as_rows(dy * n), axis=0)                           # (N, D) -> (D,)
    dx = dn - xp.mean(dn, axis=-1, keepdims=True) - n * xp.mean(dn * n, axis=-1, keepdims=True)
    return dx, dweight, dbias


def adds_the_last_term(dy, cache, needs=None):
    """The term n · mean(dn · n) of dx is added instead of subtracted."""
    x, weight, mean, rstd, has_bias = cache
    xp = array_namespace(dy)
    n, dn = (x - mean) * rstd, dy * weight                              # (..., D), (..., D)
    dbias = xp.sum(as_rows(dy), axis=0) if has_bias else None           # (N, D) -> (D,)
    dweight = xp.sum(as_rows(dy * n), axis=0)                           # (N, D) -> (D,)
    dx = rstd * (dn - xp.mean(dn, axis=-1, keepdims=True) + n * xp.mean(dn * n, axis=-1, keepdims=True))
    return dx, dweight, dbias


def does_not_centre_for_the_weight(dy, cache, needs=None):
    """dweight is made of x · rstd, from which the mean was not subtracted."""
    x, weight, mean, rstd, has_bias = cache
    xp = array_namespace(dy)
    n, dn = (x - mean) * rstd, dy * weight                              # (..., D), (..., D)
    dbias = xp.sum(as_rows(dy), axis=0) if has_bias else None           # (N, D) -> (D,)
    dweight = xp.sum(as_rows(dy * x * rstd), axis=0)                    # (N, D) -> (D,)
    dx = rstd * (dn - xp.mean(dn, axis=-1, keepdims=True) - n * xp.mean(dn * n, axis=-1, keepdims=True))
    return dx, dweight, dbias


def sums_the_bias_over_the_row(dy, cache, needs=None):
    """dbias is summed along the last axis, over the features, instead of over the rows."""
    x, weight, mean, rstd, has_bias = cache
    xp = array_namespace(dy)
    n, dn = (x - mean) * rstd, dy * weight                              # (..., D), (..., D)
    dbias = xp.sum(as_rows(dy), axis=-1) if has_bias else None          # (N, D) -> (N,)
    dweight = xp.sum(as_rows(dy * n), axis=0)                           # (N, D) -> (D,)
    dx = rstd * (dn - xp.mean(dn, axis=-1, keepdims=True) - n * xp.mean(dn * n, axis=-1, keepdims=True))
    return dx, dweight, dbias


def swaps_weight_and_bias(dy, cache, needs=None):
    """dbias comes before dweight, against the order of the arguments."""
    x, weight, mean, rstd, has_bias = cache
    xp = array_namespace(dy)
    n, dn = (x - mean) * rstd, dy * weight                              # (..., D), (..., D)
    dbias = xp.sum(as_rows(dy), axis=0) if has_bias else None           # (N, D) -> (D,)
    dweight = xp.sum(as_rows(dy * n), axis=0)                           # (N, D) -> (D,)
    dx = rstd * (dn - xp.mean(dn, axis=-1, keepdims=True) - n * xp.mean(dn * n, axis=-1, keepdims=True))
    return dx, dbias, dweight


def divides_by_one_less(x, weight, bias=None, *, eps=1e-5):
    """The variance is divided by D - 1, as for a sample, instead of D."""
    xp = array_namespace(x)
    mean = xp.mean(x, axis=-1, keepdims=True)                           # (..., D) -> (..., 1)
    centred = x - mean                                                  # (..., D)
    variance = xp.sum(centred * centred, axis=-1, keepdims=True) / (x.shape[-1] - 1)        # (..., D) -> (..., 1)
    rstd = 1 / xp.sqrt(variance + eps)                                  # (..., 1)
    y = centred * rstd * weight                                         # (..., D)
    if bias is not None:
        y = y + bias
    return y, LayerNormCache(x, weight, mean, rstd, bias is not None)


def squares_before_centring(x, weight, bias=None, *, eps=1e-5):
    """The mean square of x is taken for its variance: it was not centred first."""
    xp = array_namespace(x)
    mean = xp.mean(x, axis=-1, keepdims=True)                           # (..., D) -> (..., 1)
    rstd = 1 / xp.sqrt(xp.mean(x * x, axis=-1, keepdims=True) + eps)    # (..., D) -> (..., 1)
    y = (x - mean) * rstd * weight                                      # (..., D)
    if bias is not None:
        y = y + bias
    return y, LayerNormCache(x, weight, mean, rstd, bias is not None)


def shifts_before_stretching(x, weight, bias=None, *, eps=1e-5):
    """The bias is added before the multiplication by the weight, which then stretches it too."""
    xp = array_namespace(x)
    mean = xp.mean(x, axis=-1, keepdims=True)                           # (..., D) -> (..., 1)
    centred = x - mean                                                  # (..., D)
    rstd = 1 / xp.sqrt(xp.mean(centred * centred, axis=-1, keepdims=True) + eps)        # (..., D) -> (..., 1)
    y = centred * rstd                                                  # (..., D)
    if bias is not None:
        y = y + bias
    return y * weight, LayerNormCache(x, weight, mean, rstd, bias is not None)


def adds_eps_outside_the_root(x, weight, bias=None, *, eps=1e-5):
    """eps is added to the standard deviation instead of the variance."""
    xp = array_namespace(x)
    mean = xp.mean(x, axis=-1, keepdims=True)                           # (..., D) -> (..., 1)
    centred = x - mean                                                  # (..., D)
    rstd = 1 / (xp.sqrt(xp.mean(centred * centred, axis=-1, keepdims=True)) + eps)      # (..., D) -> (..., 1)
    y = centred * rstd * weight                                         # (..., D)
    if bias is not None:
        y = y + bias
    return y, LayerNormCache(x, weight, mean, rstd, bias is not None)


MISTAKES = {
    "layernorm_backward": [
        (takes_mean_and_rstd_for_constants, "missing term"),
        (takes_the_mean_for_a_constant, "missing term"),
        (takes_the_variance_for_a_constant, "missing term"),
        (forgets_the_weight, "missing term"),
        (forgets_to_divide_by_the_deviation, "missing term"),
        (adds_the_last_term, "sign"),
        (does_not_centre_for_the_weight, "missing term"),
        (sums_the_bias_over_the_row, "wrong sum"),
        (swaps_weight_and_bias, "wrong order"),
    ],
    "layernorm_forward": [
        (divides_by_one_less, "wrong term"),
        (squares_before_centring, "missing term"),
        (shifts_before_stretching, "wrong order"),
        (adds_eps_outside_the_root, "wrong term"),
    ],
}
