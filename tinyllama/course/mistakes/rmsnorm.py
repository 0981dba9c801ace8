"""RMSNorm, wrong: the root mean square depends on every element of its row, and all rows share the weight."""

from tinyllama.ops.array import array_namespace, as_rows
from tinyllama.ops.rmsnorm import RMSNormCache


def takes_rstd_for_a_constant(dy, cache, needs=None):
    """The second term of dx is left out, as if the root mean square did not depend on x."""
    x, weight, rstd = cache
    xp = array_namespace(dy)
    n = x * rstd                                                        # (..., D)
    dweight = xp.sum(as_rows(dy * n), axis=0)                           # (N, D) -> (D,)
    return rstd * dy * weight, dweight


def forgets_the_weight(dy, cache, needs=None):
    """dx is made of dy instead of dy · weight."""
    x, _, rstd = cache
    xp = array_namespace(dy)
    n = x * rstd                                                        # (..., D)
    dweight = xp.sum(as_rows(dy * n), axis=0)                           # (N, D) -> (D,)
    dx = rstd * (dy - n * xp.mean(dy * n, axis=-1, keepdims=True))      # (..., D)
    return dx, dweight


def forgets_the_weight_in_the_mean(dy, cache, needs=None):
    """The mean in dx is of dy · n instead of dy · weight · n."""
    x, weight, rstd = cache
    xp = array_namespace(dy)
    n = x * rstd                                                        # (..., D)
    dweight = xp.sum(as_rows(dy * n), axis=0)                           # (N, D) -> (D,)
    dx = rstd * (dy * weight - n * xp.mean(dy * n, axis=-1, keepdims=True))     # (..., D)
    return dx, dweight


def sums_instead_of_averaging(dy, cache, needs=None):
    """The second term of dx has the sum over the row instead of the mean: the 1/D of the mean square is lost."""
    x, weight, rstd = cache
    xp = array_namespace(dy)
    n, dn = x * rstd, dy * weight                                       # (..., D), (..., D)
    dweight = xp.sum(as_rows(dy * n), axis=0)                           # (N, D) -> (D,)
    dx = rstd * (dn - n * xp.sum(dn * n, axis=-1, keepdims=True))       # (..., D)
    return dx, dweight


def adds_the_second_term(dy, cache, needs=None):
    """The second term of dx is added instead of subtracted: a larger x means a smaller rstd."""
    x, weight, rstd = cache
    xp = array_namespace(dy)
    n, dn = x * rstd, dy * weight                                       # (..., D), (..., D)
    dweight = xp.sum(as_rows(dy * n), axis=0)                           # (N, D) -> (D,)
    dx = rstd * (dn + n * xp.mean(dn * n, axis=-1, keepdims=True))      # (..., D)
    return dx, dweight


def keeps_a_weight_for_each_row(dy, cache, needs=None):
    """dweight is not summed over the rows, which all share the weight."""
    x, weight, rstd = cache
    xp = array_namespace(dy)
    n, dn = x * rstd, dy * weight                                       # (..., D), (..., D)
    dx = rstd * (dn - n * xp.mean(dn * n, axis=-1, keepdims=True))      # (..., D)
    return dx, dy * n


def averages_the_weight(dy, cache, needs=None):
    """dweight is the mean over the rows instead of their sum."""
    x, weight, rstd = cache
    xp = array_namespace(dy)
    n, dn = x * rstd, dy * weight                                       # (..., D), (..., D)
    dweight = xp.mean(as_rows(dy * n), axis=0)                          # (N, D) -> (D,)
    dx = rstd * (dn - n * xp.mean(dn * n, axis=-1, keepdims=True))      # (..., D)
    return dx, dweight


def forgets_to_normalise_for_the_weight(dy, cache, needs=None):
    """dweight is made of x instead of the normalised row."""
    x, weight, rstd = cache
    xp = array_namespace(dy)
    n, dn = x * rstd, dy * weight                                       # (..., D), (..., D)
    dweight = xp.sum(as_rows(dy * x), axis=0)                           # (N, D) -> (D,)
    dx = rstd * (dn - n * xp.mean(dn * n, axis=-1, keepdims=True))      # (..., D)
    return dx, dweight


def returns_the_weight_first(dy, cache, needs=None):
    """dweight comes before dx, against the order of the arguments."""
    x, weight, rstd = cache
    xp = array_namespace(dy)
    n, dn = x * rstd, dy * weight                                       # (..., D), (..., D)
    dweight = xp.sum(as_rows(dy * n), axis=0)                           # (N, D) -> (D,)
    dx = rstd * (dn - n * xp.mean(dn * n, axis=-1, keepdims=True))      # (..., D)
    return dweight, dx


def adds_eps_outside_the_root(x, weight, *, eps=1e-5):
    """eps is added to the root instead of the mean square."""
    xp = array_namespace(x)
    rstd = 1 / (xp.sqrt(xp.mean(x * x, axis=-1, keepdims=True)) + eps)  # (..., D) -> (..., 1)
    return x * rstd * weight, RMSNormCache(x, weight, rstd)             # (..., D)


def divides_by_the_length(x, weight, *, eps=1e-5):
    """The squares are summed instead of averaged, so that each row gets the length 1 and not the mean square 1."""
    xp = array_namespace(x)
    rstd = 1 / xp.sqrt(xp.sum(x * x, axis=-1, keepdims=True) + eps)     # (..., D) -> (..., 1)
    return x * rstd * weight, RMSNormCache(x, weight, rstd)             # (..., D)


def forgets_the_root(x, weight, *, eps=1e-5):
    """x is divided by its mean square instead of the root of it."""
    xp = array_namespace(x)
    rstd = 1 / (xp.mean(x * x, axis=-1, keepdims=True) + eps)           # (..., D) -> (..., 1)
    return x * rstd * weight, RMSNormCache(x, weight, rstd)             # (..., D)


def averages_over_the_batch(x, weight, *, eps=1e-5):
    """The mean square is taken over the first axis instead of the last."""
    xp = array_namespace(x)
    rstd = 1 / xp.sqrt(xp.mean(x * x, axis=0, keepdims=True) + eps)     # (B, ..., D) -> (1, ..., D)
    return x * rstd * weight, RMSNormCache(x, weight, rstd)             # (..., D)


MISTAKES = {
    "rmsnorm_backward": [
        (takes_rstd_for_a_constant, "missing term"),
        (forgets_the_weight, "missing term"),
        (forgets_the_weight_in_the_mean, "missing term"),
        (sums_instead_of_averaging, "wrong sum"),
        (adds_the_second_term, "sign"),
        (keeps_a_weight_for_each_row, "wrong sum"),
        (averages_the_weight, "constant factor"),
        (forgets_to_normalise_for_the_weight, "wrong term"),
        (returns_the_weight_first, "wrong order"),
    ],
    "rmsnorm_forward": [
        (adds_eps_outside_the_root, "wrong term"),
        (divides_by_the_length, "wrong sum"),
        (forgets_the_root, "missing term"),
        (averages_over_the_batch, "wrong sum"),
    ],
}
