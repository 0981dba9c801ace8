"""The length of all gradients together, by which they are clipped."""

from tinyllama.ops.array import array_namespace


def global_norm(gradient):
    """sqrt(Σ g²), the Euclidean length.  gradient: (N,)  ->  ().  Pascanu et al. 2013; derived in chapter 12."""
    xp = array_namespace(gradient)
    return xp.sqrt(xp.sum(gradient * gradient))                         # (N,) -> ()
