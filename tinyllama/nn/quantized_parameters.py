"""Where quantised weights live: each matrix an array of int8 with its scales, everything else as it was."""

from tinyllama.nn.parameters import NamedViews
from tinyllama.ops.quantized_linear import QuantizedWeight, quantize_rows

ROWS_AT_ONCE = 1024     # of a matrix, while it is quantised: what is needed in between stays small


class QuantizedParameters(NamedViews):
    """The weights of a network for inference: matrices as `QuantizedWeight`, vectors in floating point.

    declarations, other_names: as for `Parameters`, from which they are made: `source`, whose names stay. A part of a
    fused matrix is a view of its rows. `source` may be quantised already, and is then copied.

    Raises ValueError for a matrix with a weight that is not finite. What training needs of `Parameters` raises
    TypeError here.
    """

    def __init__(self, declarations, source, backend, *, other_names=None):
        self.backend, self.dtype = backend, source.dtype
        views, names = {}, []
        for declaration in declarations:
            if declaration.name not in views:
                whole = views[declaration.name] = self._hold(declaration.name, source[declaration.name])
                start = 0
                for part, rows in declaration.parts:
                    views[part] = _rows(whole, slice(start, start + rows))
                    start += rows
                names += [part for part, _ in declaration.parts] or [declaration.name]
        views |= {other: views[name] for other, name in (other_names or {}).items()}
        super().__init__(views, names)

    def _hold(self, name, weight):
        """An own copy of a weight, quantised if it is a matrix."""
        if isinstance(weight, QuantizedWeight):
            return QuantizedWeight(*(self._copy(array) for array in weight))
        if weight.ndim == 1:
            return self._copy(weight)
        values, scales = (self.backend.zeros(rows * width, dtype).reshape(rows, width) for rows, width, dtype in (
            (*weight.shape, "int8"), (len(weight), 1, self.dtype)))
        for start in range(0, len(weight), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            if not bool(self.backend.xp.isfinite(weight[rows]).all()):
                raise ValueError(f"{name}: expected finite weights, got one that is infinite or not a number")
            values[rows], scales[rows] = quantize_rows(weight[rows])
        return QuantizedWeight(values, scales)

    def _copy(self, array):
        copied = self.backend.zeros(array.size, array.dtype).reshape(array.shape)
        copied[...] = array
        return copied

    @property
    def trainable(self):
        """There is none: raises TypeError."""
        raise not_trainable()

    frozen = decaying = trainable

    def new_gradients(self):
        """There are none: raises TypeError."""
        raise not_trainable()


def not_trainable():
    """The error for everything that needs floating-point weights."""
    return TypeError("model: expected one with floating-point weights, got a quantised one, which cannot be trained")


def _rows(weight, rows):
    return QuantizedWeight(*(array[rows] for array in weight)) if isinstance(weight, QuantizedWeight) else weight[rows]
