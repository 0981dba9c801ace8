"""GELU in the form of GPT-2, with tanh."""

import math
from typing import Any, NamedTuple

from tinyllama.ops.array import array_namespace

SCALE = math.sqrt(2 / math.pi)
CUBIC = 0.044715


class GELUCache(NamedTuple):
    """x, and the tanh that costs most to recompute."""

    x: Any      # (...)
    tanh: Any   # (...)


def gelu_forward(x):
    """y = x/2 · (1 + tanh(u)),   u = sqrt(2/π) · (x + 0.044715 x³).

    x: (...)  ->  y: (...), cache.
    Source: Hendrycks & Gimpel 2016, section 2 (the approximation that GPT-2 uses). Derived in chapter 06.
    """
    xp = array_namespace(x)
    tanh = xp.tanh(SCALE * (x + CUBIC * x * x * x))
    return 0.5 * x * (1 + tanh), GELUCache(x, tanh)


def gelu_backward(dy, cache, needs=None):
    """The gradient of x.

    dy: (...)  ->  dx: (...).

        du/dx = sqrt(2/π) · (1 + 3 · 0.044715 x²)
        dx    = dy · ((1 + tanh(u)) / 2 + x/2 · (1 - tanh(u)²) · du/dx)
    """
    x, tanh = cache
    slope = SCALE * (1 + 3 * CUBIC * x * x)                             # (...)   du/dx
    return dy * 0.5 * (1 + tanh + x * (1 - tanh * tanh) * slope)
