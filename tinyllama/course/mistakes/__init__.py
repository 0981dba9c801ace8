"""The bank of classic mistakes: every operation as a learner might get it wrong, one file an operation.

A mistake is a whole function with the signature of the one that it stands in for. A wrong backward takes the cache of
the library's forward, and a wrong forward returns a cache that the library's backward can use, so that either can be
checked, or planted in a model with `backend.with_ops(**{mistake.function_name: mistake.function})`. All return every
gradient, whatever `needs` says, as a learner's answer will.

The bank tests the tests: a check that accepts one of these functions is not good enough. It holds what the gradient
check can see. What it cannot see by nature is not here: a softmax that overflows, or an eps or a mask that is wrong in
forward and backward alike, so that the pair is right for another function.
"""

import importlib
from collections.abc import Callable
from typing import NamedTuple

from tinyllama.ops import DIFFERENTIABLE

# What can be wrong, after what a learner would have to look for. A diagnosis by numbers can tell some of them: "off by
# the batch size" is a constant factor, "equal after a transpose" transposed, "right except rows of repeated tokens"
# overwritten, "the mask is inverted" a mask.
KINDS = {
    "missing term": "a summand or a factor of the formula is left out, such as an inner derivative",
    "wrong term": "the formula is complete, but one of its parts is another array or another function",
    "wrong sum": "summed over the wrong axes, not summed over what is shared, or averaged where it should be summed",
    "constant factor": "a gradient, or the result, is right up to one number, such as the batch size",
    "sign": "plus instead of minus, in one term or throughout",
    "transposed": "a matrix is used, or returned, as its transpose",
    "wrong order": "results swapped, features paired or indexed wrongly, two steps exchanged",
    "overwritten": "= instead of +=, or a value replaced while it was still needed",
    "mask": "what is hidden, ignored or dropped is treated as if it were not, or the other way round",
}


class Mistake(NamedTuple):
    """A wrong function and what is wrong with it."""

    function_name: str      # the function of `tinyllama.ops` that it stands in for, such as "rmsnorm_backward"
    function: Callable
    kind: str               # one of KINDS
    what: str               # one sentence: the first line of the function's docstring


def mistakes(op=None):
    """The mistakes in the operation `op`, forward or backward, or in every operation: a list of `Mistake`.

    Raises ValueError for a name that is no differentiable operation.
    """
    if op is None:
        return [mistake for name in DIFFERENTIABLE for mistake in mistakes(name)]
    if op not in DIFFERENTIABLE:
        raise ValueError(f"op: expected one of {', '.join(DIFFERENTIABLE)}, got {op!r}")
    module = importlib.import_module(f"{__name__}.{op}")
    return [Mistake(function_name, function, kind, function.__doc__.splitlines()[0])
            for function_name, functions in module.MISTAKES.items() for function, kind in functions]
