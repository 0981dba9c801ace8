"""Linear, wrong: which factor is transposed, and what is summed over the rows that share weight and bias."""

from tinyllama.ops.array import array_namespace, as_rows
from tinyllama.ops.linear import LinearCache


def returns_the_weight_transposed(dy, cache, needs=None):
    """dweight is xᵀ · dy, which is (I, O), but the weight is stored as (O, I)."""
    x, weight, has_bias = cache
    xp = array_namespace(dy)
    dbias = xp.sum(as_rows(dy), axis=0) if has_bias else None           # (N, O) -> (O,)
    dweight = as_rows(x).T @ as_rows(dy)                                # (I, N) · (N, O) -> (I, O)
    return dy @ weight, dweight, dbias


def reshapes_instead_of_transposing(dy, cache, needs=None):
    """dweight = xᵀ · dy is brought from (I, O) to (O, I) by reshape, which shuffles its elements."""
    x, weight, has_bias = cache
    xp = array_namespace(dy)
    dbias = xp.sum(as_rows(dy), axis=0) if has_bias else None           # (N, O) -> (O,)
    dweight = (as_rows(x).T @ as_rows(dy)).reshape(weight.shape)        # (I, N) · (N, O) -> (I, O) -> (O, I)
    return dy @ weight, dweight, dbias


def averages_the_bias(dy, cache, needs=None):
    """dbias is the mean over the rows instead of their sum."""
    x, weight, has_bias = cache
    xp = array_namespace(dy)
    dbias = xp.mean(as_rows(dy), axis=0) if has_bias else None          # (N, O) -> (O,)
    return dy @ weight, as_rows(dy).T @ as_rows(x), dbias


def sums_the_bias_over_the_batch_only(dy, cache, needs=None):
    """dbias is summed over the first axis only, so that every position of a sequence keeps one of its own."""
    x, weight, has_bias = cache
    xp = array_namespace(dy)
    dbias = xp.sum(dy, axis=0) if has_bias else None                    # (B, T, O) -> (T, O)
    return dy @ weight, as_rows(dy).T @ as_rows(x), dbias


def divides_by_the_batch(dy, cache, needs=None):
    """dweight is divided by the batch size, which the loss has done already."""
    x, weight, has_bias = cache
    xp = array_namespace(dy)
    dbias = xp.sum(as_rows(dy), axis=0) if has_bias else None           # (N, O) -> (O,)
    dweight = as_rows(dy).T @ as_rows(x) / x.shape[0]                   # (O, N) · (N, I) -> (O, I)
    return dy @ weight, dweight, dbias


def keeps_the_last_row(dy, cache, needs=None):
    """dweight and dbias are assigned anew for each row instead of added up: only the last row counts."""
    x, weight, has_bias = cache
    xp = array_namespace(dy)
    dweight, dbias = xp.zeros_like(weight), None
    for x_row, dy_row in zip(as_rows(x), as_rows(dy), strict=True):     # (I,), (O,)
        dweight = dy_row[:, None] * x_row                               # (O, 1) · (I,) -> (O, I)
        dbias = dy_row if has_bias else None
    return dy @ weight, dweight, dbias


def forgets_what_arrives_at_the_bias(dy, cache, needs=None):
    """The derivative of y by the bias is 1, but dbias must still be multiplied by dy."""
    x, weight, has_bias = cache
    xp = array_namespace(dy)
    dbias = xp.sum(xp.ones_like(as_rows(dy)), axis=0) if has_bias else None     # (N, O) -> (O,)
    return dy @ weight, as_rows(dy).T @ as_rows(x), dbias


def returns_no_bias(dy, cache, needs=None):
    """Only two gradients come back: the bias is forgotten."""
    x, weight, _ = cache
    return dy @ weight, as_rows(dy).T @ as_rows(x)                      # (..., I), (O, I)


def returns_the_weight_first(dy, cache, needs=None):
    """dweight comes before dx, against the order of the arguments."""
    x, weight, has_bias = cache
    xp = array_namespace(dy)
    dbias = xp.sum(as_rows(dy), axis=0) if has_bias else None           # (N, O) -> (O,)
    return as_rows(dy).T @ as_rows(x), dy @ weight, dbias               # (O, I), (..., I), (O,)


def multiplies_by_a_reshaped_weight(x, weight, bias=None):
    """The weight is brought from (O, I) to (I, O) by reshape, which shuffles its elements, instead of transposed."""
    y = x @ weight.reshape(weight.shape[1], weight.shape[0])            # (..., I) · (I, O) -> (..., O)
    if bias is not None:
        y = y + bias
    return y, LinearCache(x, weight, bias is not None)


def forgets_to_add_the_bias(x, weight, bias=None):
    """The bias is never added, though it receives a gradient."""
    return x @ weight.T, LinearCache(x, weight, bias is not None)       # (..., I) · (I, O) -> (..., O)


MISTAKES = {
    "linear_backward": [
        (returns_the_weight_transposed, "transposed"),
        (reshapes_instead_of_transposing, "transposed"),
        (averages_the_bias, "constant factor"),
        (sums_the_bias_over_the_batch_only, "wrong sum"),
        (divides_by_the_batch, "constant factor"),
        (keeps_the_last_row, "overwritten"),
        (forgets_what_arrives_at_the_bias, "missing term"),
        (returns_no_bias, "missing term"),
        (returns_the_weight_first, "wrong order"),
    ],
    "linear_forward": [
        (multiplies_by_a_reshaped_weight, "transposed"),
        (forgets_to_add_the_bias, "missing term"),
    ],
}
