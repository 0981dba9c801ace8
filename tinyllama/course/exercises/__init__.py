"""Feedback on the exercises of the chapters: one module a chapter, each exercise a list of properties.

    check("rmsnorm_backward", my_function)

tries the properties of the exercise in order and reports the first that does not hold. A property is a name and a
function of the answer that raises AssertionError with an explanation. Properties look at what an answer does, never at
how it is written.
"""

import importlib
from typing import NamedTuple

import numpy as np

from tinyllama.ops import OPS

_MODULES = {        # exercise -> the module of its chapter, whose EXERCISES holds the properties
    "rmsnorm_backward": "normalization",
    "layernorm_backward": "normalization",
    "survives": "normalization",
    "row_variance": "normalization",
}


class Feedback(NamedTuple):
    """What `check` found out. `status` is "right", "wrong", "crashed" or "not started"."""

    name: str
    status: str
    message: str

    @property
    def is_right(self):
        """Whether every property of the exercise holds."""
        return self.status == "right"

    def __str__(self):
        return f"{self.name}: {self.status}. {self.message}"

    __repr__ = __str__      # a notebook shows the last value of a cell by its repr


def properties(name):
    """The properties of an exercise: a list of (what, function of the answer).

    Raises ValueError for a name that is no exercise.
    """
    if name not in _MODULES:
        raise ValueError(f"name: expected one of {', '.join(_MODULES)}, got {name!r}")
    return importlib.import_module(f"{__name__}.{_MODULES[name]}").EXERCISES[name]


def check(name, answer):
    """Try `answer` on the properties of the exercise `name`, and return a `Feedback`; the answer's errors are caught.

    A stub, which raises NotImplementedError or holds None, is "not started", and that is no fault.
    """
    passed = []
    for what, holds in properties(name):
        try:
            with np.errstate(all="ignore"):     # a property says what is wrong with the numbers
                holds(answer)
        except NotImplementedError:
            return Feedback(name, "not started", "Write your answer in the cell above, run it, then run this one.")
        except AssertionError as error:
            return Feedback(name, "wrong", _after(passed) + f"What fails is {what}: {error}")
        except Exception as error:      # whatever a learner's function may raise
            return Feedback(name, "crashed", _after(passed) + f"While trying {what} it raised "
                                                              f"{type(error).__name__}: {error}")
        passed.append(what)
    return Feedback(name, "right", f"Checked: {', '.join(passed)}.")


def mine_or_reference(name, mine):
    """`mine` if it passes its check, otherwise the operation `name` of the library; prints which."""
    feedback = check(name, mine)
    print(f"{name}: " + ("yours" if feedback.is_right else f"the library's (yours: {feedback.status})"))
    return mine if feedback.is_right else OPS[name]


def _after(passed):
    return f"Right so far: {', '.join(passed)}. " if passed else ""
