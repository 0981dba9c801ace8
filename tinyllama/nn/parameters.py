"""Where the weights live: one flat buffer for all that are trained, one for all that are frozen.

A parameter is a named view into its buffer. The optimizer then is one pass over one array, clipping one reduction, and
a copy to another machine one message. Parameters that are multiplied by the same input (q, k and v; gate and up) lie
next to each other, so that their fused product is a wider view of the same memory.
"""

import fnmatch
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

ALIGNMENT = 64      # bytes: every array starts on a cache line of its own


class Declaration(NamedTuple):
    """What a layer asks for: an array of this name and shape, and how it begins.

    The values are drawn from a normal distribution with standard deviation `std`, or all equal to `fill` where `std` is
    0. `decays`: whether weight decay applies. `parts`, where given, are the names of the pieces that the array is made
    of and their numbers of rows: the pieces are the parameters, and the whole is the wider view.
    """

    name: str
    shape: tuple
    std: float = 0.0
    fill: float = 0.0
    decays: bool = True
    parts: tuple = ()


class NamedViews(Mapping):
    """Named arrays that share a flat buffer. Iteration gives each parameter once.

    Look-up also finds the fused views, such as `model.layers.0.self_attn.qkv_proj.weight`, and the other names of tied
    parameters.
    """

    def __init__(self, views, names):
        self._views, self._names = views, names

    def __getitem__(self, name):
        return self._views[name]

    def __contains__(self, name):
        return name in self._views

    def __iter__(self):
        return iter(self._names)

    def __len__(self):
        return len(self._names)


class Gradients(NamedViews):
    """The named views of a gradient, to which the layers add.

    Where it begins anew, the first gradient of an array is written and not added: what was there need not be cleared
    before, nor read, which for large models is the longest way through memory of a whole step.
    """

    def __init__(self, views, names, arrays):
        super().__init__(views, names)
        self._arrays, self._outdated = arrays, set()        # the names under which layers add; those not yet written

    def begin_anew(self):
        """Forget what was added so far."""
        self._outdated = set(self._arrays)

    def add(self, name, gradient):
        """Add to the array `name`. Nothing happens for a parameter that is frozen or absent, or a gradient of None."""
        if gradient is None or name not in self:
            return
        if name not in self._arrays:        # a part of an array, or another name for it
            self.finish()
        if name in self._outdated:
            self._outdated.remove(name)
            self._views[name][...] = gradient
        else:
            self._views[name] += gradient

    def finish(self):
        """Write zeros to the arrays that got no gradient."""
        for name in self._outdated:
            self._views[name][...] = 0
        self._outdated = set()


class Layout:
    """The places of arrays in a flat buffer: first those that decay, then the others, each aligned to 64 bytes.

    The pieces of a fused array follow one another without a gap. size: the length of the buffer in elements. decaying:
    how many of them, at the front, decay. The padding between arrays is zero and stays zero.
    """

    def __init__(self, declarations, dtype, other_names=None):
        per_line = ALIGNMENT // np.dtype(dtype).itemsize
        self.places, self.names = {}, []        # name -> (start, shape); the names that iteration gives
        self.arrays = {declaration.name for declaration in declarations}
        self.size = self.decaying = 0
        for decays in (True, False):
            for declaration in declarations:
                if declaration.decays == decays:
                    self._place(declaration)
                    self.size = -(-self.size // per_line) * per_line        # rounded up to a whole line
            if decays:
                self.decaying = self.size
        for other, name in (other_names or {}).items():
            if name in self.places:
                self.places[other] = self.places[name]

    def _place(self, declaration):
        start = self.size
        self.places[declaration.name] = (start, declaration.shape)
        self.size += math.prod(declaration.shape)
        for name, rows in declaration.parts:
            shape = (rows, *declaration.shape[1:])
            self.places[name] = (start, shape)
            start += math.prod(shape)
        self.names += [name for name, _ in declaration.parts] or [declaration.name]

    def views(self, buffer):
        """{name: view} of a buffer that has this layout."""
        return {name: buffer[start:start + math.prod(shape)].reshape(shape)
                for name, (start, shape) in self.places.items()}


class Parameters(NamedViews):
    """All weights of a network by name, trainable and frozen.

    declarations: what the layers ask for; a name that is declared twice is one parameter (tied or shared weights).
    frozen: patterns of names, such as "model.embed_tokens.*", that get no gradients. other_names: {alias: name}.
    The initial values are drawn in float64 by NumPy on the host, in the order of the declarations, so that they depend
    on the seed alone and not on backend or dtype. With a seed of None nothing is drawn, and the memory of what would be
    drawn stays untouched: the weights will be loaded.

    trainable, frozen: the flat buffers. decaying: how many elements at the front of `trainable` decay.
    Raises ValueError where a pattern matches nothing, or only a part of a fused parameter.
    """

    def __init__(self, declarations, backend, *, dtype="float32", seed=0, frozen=(), other_names=None):
        self.backend, self.dtype = backend, dtype
        first = {}
        for declaration in declarations:
            first.setdefault(declaration.name, declaration)
        declarations = list(first.values())
        is_frozen = _find_frozen(declarations, frozen)
        self._layout = Layout([d for d in declarations if not is_frozen[d.name]], dtype, other_names)
        frozen_layout = Layout([d for d in declarations if is_frozen[d.name]], dtype, other_names)
        self.decaying = self._layout.decaying

        layouts = (self._layout, frozen_layout)
        self.trainable, self.frozen = buffers = [backend.zeros(layout.size, dtype) for layout in layouts]
        if seed is None:
            _give_first_values(declarations, _views(layouts, buffers), None)
        else:       # on the host, and from there as a whole, because each upload to a device takes its time
            host = [np.zeros(layout.size, dtype) for layout in layouts]
            _give_first_values(declarations, _views(layouts, host), np.random.default_rng(seed))
            for buffer, drawn in zip(buffers, host, strict=True):
                buffer[...] = backend.asarray(drawn)
        views = _views(layouts, buffers)
        names = [name for d in declarations for name in ([part for part, _ in d.parts] or [d.name])]
        super().__init__(views, names)

    def new_gradients(self):
        """A gradient for every trainable parameter, zero: (flat buffer, named views of it)."""
        buffer = self.backend.zeros(self._layout.size, self.dtype)
        return buffer, Gradients(self._layout.views(buffer), self._layout.names, self._layout.arrays)


def _views(layouts, buffers):
    return {name: view for layout, buffer in zip(layouts, buffers, strict=True)
            for name, view in layout.views(buffer).items()}


def _give_first_values(declarations, views, rng):
    """Write what arrays that are zero begin with. Without `rng`, those that would be drawn are not touched."""
    for declaration in declarations:
        if declaration.std and rng is not None:
            views[declaration.name][...] = rng.normal(0.0, declaration.std, declaration.shape)
        elif declaration.fill:
            views[declaration.name][...] = declaration.fill


def _find_frozen(declarations, patterns):
    """{declaration name: whether it is frozen}."""
    is_frozen, matched = {}, set()
    for declaration in declarations:
        names = [name for name, _ in declaration.parts] or [declaration.name]
        hits = [[pattern for pattern in patterns if fnmatch.fnmatchcase(name, pattern)] for name in names]
        held = [bool(hit) for hit in hits]
        if any(held) and not all(held):
            raise ValueError(f"frozen: expected all or none of {', '.join(names)}, which are one array; "
                             f"the patterns {list(patterns)} match only some")
        is_frozen[declaration.name] = any(held)
        matched.update(*hits)
    unmatched = [pattern for pattern in patterns if pattern not in matched]
    if unmatched:
        raise ValueError(f"frozen: no parameter is named like {unmatched[0]!r}")
    return is_frozen
