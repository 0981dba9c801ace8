"""Embedding, wrong: the look-up is easy, but a token that occurs twice must receive both gradients."""

from tinyllama.ops.array import array_namespace, as_rows
from tinyllama.ops.embedding import EmbeddingCache


def assigns_instead_of_adding(dy, cache, needs=None):
    """The gradient of a repeated token is that of its last occurrence alone: = instead of +=."""
    ids, table_shape = cache
    xp = array_namespace(dy)
    dweight = xp.zeros(table_shape, dtype=dy.dtype)                     # (V, D)
    dweight[ids] = dy
    return dweight


def adds_through_a_copy(dy, cache, needs=None):
    """Indexing with += reads and writes each row once, however often its token occurs: it needs add.at."""
    ids, table_shape = cache
    xp = array_namespace(dy)
    dweight = xp.zeros(table_shape, dtype=dy.dtype)                     # (V, D)
    dweight[ids.reshape(-1)] += as_rows(dy)
    return dweight


def averages_over_occurrences(dy, cache, needs=None):
    """The gradient of a repeated token is the mean over its occurrences instead of their sum."""
    ids, table_shape = cache
    xp = array_namespace(dy)
    dweight = xp.zeros(table_shape, dtype=dy.dtype)                     # (V, D)
    count = xp.zeros((table_shape[0], 1), dtype=dy.dtype)               # (V, 1)
    xp.add.at(dweight, ids.reshape(-1), as_rows(dy))
    xp.add.at(count, ids.reshape(-1), 1)
    return dweight / xp.maximum(count, 1)


def divides_by_the_batch(dy, cache, needs=None):
    """The gradient is divided by the batch size, which the loss has done already."""
    ids, table_shape = cache
    xp = array_namespace(dy)
    dweight = xp.zeros(table_shape, dtype=dy.dtype)                     # (V, D)
    xp.add.at(dweight, ids.reshape(-1), as_rows(dy) / ids.shape[0])
    return dweight


def returns_the_transpose(dy, cache, needs=None):
    """As a product with one-hot rows, but the wrong way round: dyᵀ · one_hot is (D, V), the table is (V, D)."""
    ids, table_shape = cache
    xp = array_namespace(dy)
    one_hot = (ids.reshape(-1, 1) == xp.arange(table_shape[0])).astype(dy.dtype)        # (N, V)
    return as_rows(dy).T @ one_hot                                      # (D, N) · (N, V) -> (D, V)


def does_not_scatter(dy, cache, needs=None):
    """Each position keeps its own gradient; nothing is summed into the rows of the table."""
    return as_rows(dy)                                                  # (..., D) -> (N, D)


def freezes_token_zero(dy, cache, needs=None):
    """Token 0 is taken for padding and gets no gradient."""
    ids, table_shape = cache
    xp = array_namespace(dy)
    dweight = xp.zeros(table_shape, dtype=dy.dtype)                     # (V, D)
    xp.add.at(dweight, ids.reshape(-1), as_rows(dy))
    dweight[0] = 0
    return dweight


def scales_the_rows(ids, weight):
    """The rows are multiplied by sqrt(D), as in the first Transformer, but backward knows nothing of it."""
    return weight[ids] * weight.shape[1] ** 0.5, EmbeddingCache(ids, weight.shape)      # (...) -> (..., D)


def counts_tokens_from_one(ids, weight):
    """The rows are read as if the first token had the number 1."""
    return weight[ids - 1], EmbeddingCache(ids, weight.shape)           # (...) -> (..., D)


MISTAKES = {
    "embedding_backward": [
        (assigns_instead_of_adding, "overwritten"),
        (adds_through_a_copy, "overwritten"),
        (averages_over_occurrences, "wrong sum"),
        (divides_by_the_batch, "constant factor"),
        (returns_the_transpose, "transposed"),
        (does_not_scatter, "wrong sum"),
        (freezes_token_zero, "mask"),
    ],
    "embedding_forward": [
        (scales_the_rows, "constant factor"),
        (counts_tokens_from_one, "wrong order"),
    ],
}
