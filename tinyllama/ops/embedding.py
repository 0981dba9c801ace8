"""Embedding: look up one row of a table for each token id."""

from typing import Any, NamedTuple

from tinyllama.ops.array import array_namespace, as_rows, require_integers


class EmbeddingCache(NamedTuple):
    """Which rows were read, and from how large a table. The table itself is not needed: a look-up is linear in it."""

    ids: Any            # (...)
    table_shape: tuple  # (V, D)


def embedding_forward(ids, weight):
    """y[n] = weight[ids[n]].

    ids: (...) integers in 0 .. V-1, weight: (V, D)  ->  y: (..., D), cache.

    Raises TypeError where ids are not integers. Their range is checked where data enters (the model), because on a GPU
    reading them here would stall every step.
    Derived in chapter 04.
    """
    require_integers(ids, "ids")
    return weight[ids], EmbeddingCache(ids, weight.shape)               # (...) -> (..., D)


def embedding_backward(dy, cache, needs=None):
    """The gradient of the table; ids are integers and have none.

    dy: (..., D)  ->  dweight: (V, D).

        dweight[v] = Σ over the positions n with ids[n] = v of dy[n]

    A token that occurs twice was read twice, so both gradients arrive at its row: they add up, and a plain assignment
    would keep only the last.
    """
    ids, table_shape = cache
    xp = array_namespace(dy)
    dweight = xp.zeros(table_shape, dtype=dy.dtype)                     # (V, D)
    xp.add.at(dweight, ids.reshape(-1), as_rows(dy))                    # ids: (N,), dy: (N, D)
    return dweight
