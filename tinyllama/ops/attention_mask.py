"""Which keys a query may see. Attention takes no (T, T) mask: it takes the few numbers that the mask is made of."""

from typing import Any, NamedTuple


class AttentionMask(NamedTuple):
    """The settings of attention that decide what is visible.

    A hidden key has the weight zero. Its numbers must still be finite: zero times NaN is NaN.

    Query i of row b has the position p = query_start[b] + i. It sees key j if and only if

        j < key_length[b]                               where key_length is given: the rest is padding
        j <= p                                          where causal: no look into the future
        p - j < window                                  where window is given: only the nearest past
        query_document[b, i] == key_document[b, j]      where they are given: packed documents do not mix
    """

    causal: bool = False
    window: int | None = None
    query_start: Any = None         # (B,) or one number; None is 0
    key_length: Any = None          # (B,) or one number; None is all
    query_document: Any = None      # (B, Tq)
    key_document: Any = None        # (B, Tk)

    def visible(self, xp, queries, keys):
        """Booleans that broadcast against (B, H, queries, keys), or None where every key is visible.

        `queries` and `keys` are ranges: all of them for the materialised attention, a tile for the tiled one.
        """
        i = xp.arange(queries.start, queries.stop)[:, None]             # (Tq, 1)
        j = xp.arange(keys.start, keys.stop)                            # (Tk,)
        positions = _column(self.query_start) + i                       # (Tq, 1) or (B, 1, Tq, 1)
        conditions = []
        if self.causal:
            conditions.append(j <= positions)                       # (Tq, Tk) or (B, 1, Tq, Tk)
        if self.window is not None:
            conditions.append(positions - j < self.window)          # (Tq, Tk) or (B, 1, Tq, Tk)
        if self.key_length is not None:
            conditions.append(j < _column(self.key_length))         # (Tk,) or (B, 1, 1, Tk)
        if self.query_document is not None:
            query_document = self.query_document[:, None, queries.start:queries.stop, None]     # (B, 1, Tq, 1)
            key_document = self.key_document[:, None, None, keys.start:keys.stop]               # (B, 1, 1, Tk)
            conditions.append(query_document == key_document)       # (B, 1, Tq, Tk)
        if not conditions:
            return None
        visible = conditions[0]
        for condition in conditions[1:]:
            visible = visible & condition
        return visible

    def hides_all(self, queries, keys):
        """True if it is certain, without looking at any array, that no query of the tile sees a key of the tile.

        Only numbers known on the host are used: an answer that had to be fetched from a GPU would cost more than the
        tile that it saves.
        """
        start = 0 if self.query_start is None else self.query_start
        if isinstance(self.key_length, int) and keys.start >= self.key_length:
            return True
        if not isinstance(start, int):
            return False
        in_the_future = self.causal and keys.start > start + queries.stop - 1
        too_long_ago = self.window is not None and start + queries.start - (keys.stop - 1) >= self.window
        return in_the_future or too_long_ago


def _column(numbers):
    """One number a row, shaped to broadcast against (B, H, Tq, Tk): (B,) -> (B, 1, 1, 1); a plain number stays one."""
    if numbers is None:
        return 0
    return numbers[:, None, None, None] if getattr(numbers, "ndim", 0) else numbers


def check_attention_shapes(q, k, v, mask):
    """Raise ValueError, naming the argument, where the shapes or settings of attention do not fit together."""
    if q.ndim != 4:
        raise ValueError(f"q: expected (B, H, Tq, D), got {q.shape}")
    batch, heads, queries, head_dim = q.shape
    if k.ndim != 4 or (k.shape[0], k.shape[3]) != (batch, head_dim):
        raise ValueError(f"k: expected (B, KV, Tk, D) with B={batch} and D={head_dim} as in q, got {k.shape}")
    if k.shape[2] == 0:
        raise ValueError(f"k: expected at least one key, got the shape {k.shape}")
    if v.ndim != 4 or v.shape[:3] != k.shape[:3]:
        raise ValueError(f"v: expected the first three dimensions of k, {k.shape[:3]}, got {v.shape}")
    if heads % k.shape[1]:
        raise ValueError(f"q: its {heads} heads cannot be divided among the {k.shape[1]} heads of k")
    if mask.window is not None and mask.window < 1:
        raise ValueError(f"window: expected at least 1, got {mask.window}")
    for name, numbers in (("query_start", mask.query_start), ("key_length", mask.key_length)):
        shape = getattr(numbers, "shape", () if isinstance(numbers, int | None) else None)
        if shape not in ((), (batch,)):
            got = type(numbers).__name__ if shape is None else f"an array {shape}"
            raise ValueError(f"{name}: expected a number or an array ({batch},), got {got}")
    if (mask.query_document is None) != (mask.key_document is None):
        raise ValueError("query_document and key_document: expected both or neither")
    if mask.query_document is not None:
        for name, document, length in (("query_document", mask.query_document, queries),
                                       ("key_document", mask.key_document, k.shape[2])):
            if document.shape != (batch, length):
                raise ValueError(f"{name}: expected the shape {(batch, length)}, got {document.shape}")
