"""Choosing the next token from its logits."""

from tinyllama.ops.array import array_namespace
from tinyllama.ops.softmax import softmax_forward


def sample(logits, *, uniform, temperature=1.0, top_k=None, top_p=None, min_p=None,
           softmax_forward=softmax_forward):
    """Draw one token a row from softmax(logits / temperature), after leaving out the unlikely ones.

    logits: (B, V), uniform: (B, 1) random numbers in 0 .. 1  ->  ids: (B,) integers.

    The tokens are sorted by probability, and three filters may shorten the list, each working on what the one before
    has left, renormalised:
        top_k   the k most probable                                             (Fan et al. 2018)
        top_p   the fewest whose probabilities reach p together                 (Holtzman et al. 2020, "nucleus")
        min_p   those with at least min_p times the probability of the first    (Nguyen et al. 2024)
    The first token always stays. Then `uniform` picks a point on the line along which the remaining probabilities lie.
    Temperature 0, or anything below 1e-6, is greedy: the most probable token. The settings are not checked here;
    `Sampling.check` does. Derived in chapter 13.
    """
    xp = array_namespace(logits)
    if temperature < 1e-6:
        return xp.argmax(logits, axis=-1)                               # (B, V) -> (B,)
    order = xp.argsort(-logits, axis=-1)                                # (B, V)   most probable first
    p, _ = softmax_forward(xp.take_along_axis(logits, order, axis=-1) / temperature)        # (B, V)
    rank = xp.arange(logits.shape[-1])                                  # (V,)
    if top_k is not None:
        p = _renormalise(xp, p * ((rank < top_k) | (rank == 0)))
    if top_p is not None:
        before = xp.cumsum(p, axis=-1) - p                              # (B, V)   probability of all that come first
        p = _renormalise(xp, p * ((before < top_p) | (rank == 0)))
    if min_p is not None:
        p = _renormalise(xp, p * ((p >= min_p * p[:, :1]) | (rank == 0)))
    cumulative = xp.cumsum(p, axis=-1)                                  # (B, V)
    # The first token whose cumulative probability passes the point: as many as lie wholly before it are skipped.
    picked = xp.sum(cumulative <= uniform * cumulative[:, -1:], axis=-1, keepdims=True)     # (B, V) -> (B, 1)
    picked = xp.minimum(picked, xp.sum(p > 0, axis=-1, keepdims=True) - 1)      # rounding must not step past the end
    return xp.take_along_axis(order, picked, axis=-1)[:, 0]             # (B, 1) -> (B,)


def _renormalise(xp, p):
    return p / xp.sum(p, axis=-1, keepdims=True)
