"""Where quantised weights live: each matrix as whole numbers with its scales, everything else as it was."""

import numpy as np

from tinyllama.nn.parameters import NamedViews
from tinyllama.ops.quantized_linear import QuantizedWeight, StackedWeight, check_groups, quantize_groups

ROWS_AT_ONCE = 1024     # of a matrix, while it is quantised: what is needed in between stays small


class QuantizedParameters(NamedViews):
    """The weights of a network for inference, of which matrices may be quantised, each in its own way.

    declarations, other_names: as for `Parameters`. weights: {name: `QuantizedWeight` or floating-point array}, asked
    once for each parameter, one after the other, so that it may make each when it is asked. What it gives is copied, to
    the order and the place where the backend wants it, before the next is asked for: whole numbers as they are, floats
    and scales in `dtype`. The parts of a fused matrix stay parts: the fused name gives a `StackedWeight`. Those of a
    fused vector are views of it.

    Raises ValueError for a weight of another shape than declared, or whose arrays do not fit together. What training
    needs of `Parameters` raises TypeError here.
    """

    def __init__(self, declarations, weights, backend, *, dtype, other_names=None):
        self.backend, self.dtype = backend, np.dtype(dtype)
        views, names = {}, []
        for declaration in declarations:
            if declaration.name in views:
                continue
            parts = declaration.parts or ((declaration.name, declaration.shape[0]),)
            width = declaration.shape[1:]
            if width:
                held = {name: self._hold(name, weights[name], (rows, *width)) for name, rows in parts}
                if declaration.parts:
                    views[declaration.name] = StackedWeight(held.values())
            else:
                views[declaration.name], held = self._hold_vector(parts, weights)
            names += held
            views |= held
        views |= {other: views[name] for other, name in (other_names or {}).items()}
        super().__init__(views, names)

    def _hold(self, name, weight, shape):
        """An own copy of a matrix."""
        _require_shape(name, weight, shape)
        if not isinstance(weight, QuantizedWeight):
            return self._copy(weight)
        try:
            weight.check()
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from error
        values, *others = weight.map(self.backend.asarray)
        return self.backend.pack(QuantizedWeight(
            values, *(None if array is None else array.astype(self.dtype) for array in others)))

    def _hold_vector(self, parts, weights):
        """(an own vector of all parts, {name of a part: view of it})."""
        whole, views, start = self.backend.zeros(sum(rows for _, rows in parts), self.dtype), {}, 0
        for name, rows in parts:
            vector = weights[name]
            _require_shape(name, vector, (rows,))
            views[name] = whole[start:start + rows]
            views[name][...] = self.backend.asarray(vector)
            start += rows
        return whole, views

    def _copy(self, array):
        copied = self.backend.zeros(array.size, self.dtype).reshape(array.shape)
        copied[...] = self.backend.asarray(array)
        return copied

    @property
    def trainable(self):
        """There is none: raises TypeError."""
        raise not_trainable()

    frozen = decaying = trainable

    def new_gradients(self):
        """There are none: raises TypeError."""
        raise not_trainable()


def quantize_matrix(name, read, shape, *, bits, group_size=None, zeros):
    """A `QuantizedWeight` of a matrix (O, I) that is read some rows at a time.

    read(rows): the rows of a slice, in floating point. group_size: see `quantize_groups`; None is the whole row.
    zeros(size, dtype): makes a flat array where the rows are, as that of a backend does.
    Raises ValueError, with the name, for weights that are not finite and for groups that do not fit.
    """
    rows, width = shape
    group_size = width if group_size is None else group_size
    try:
        check_groups(width, bits, group_size)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    whole = None
    for start in range(0, rows, ROWS_AT_ONCE):
        weight = read(slice(start, start + ROWS_AT_ONCE))
        if not bool(abs(weight).max() < np.inf):
            raise ValueError(f"{name}: expected finite weights, got one that is infinite or not a number")
        piece = quantize_groups(weight, bits, group_size)
        if whole is None:
            whole = piece.map(lambda array: zeros(rows * array.shape[1], array.dtype).reshape(rows, array.shape[1]))
        for array, of_piece in zip(whole, piece, strict=True):
            if array is not None:
                array[start:start + ROWS_AT_ONCE] = of_piece
    return whole


def _require_shape(name, weight, shape):
    if tuple(weight.shape) != shape:
        raise ValueError(f"{name}: expected the shape {shape}, got {tuple(weight.shape)}")


def not_trainable():
    """The error for everything that needs floating-point weights."""
    return TypeError("model: expected one with floating-point weights, got a quantised one, which cannot be trained")
