"""A matrix product with weights of eight bits: a quarter of the memory, and of the time that reading it takes."""

from typing import Any, NamedTuple

from tinyllama.ops.array import array_namespace, as_rows, require_shape

LARGEST = 127       # of int8, on both sides of zero; -128 stays unused
BLOCK = 1024        # rows of the weight that become floats at a time


class QuantizedWeight(NamedTuple):
    """A matrix as whole numbers: row o of the weight is values[o] · scales[o]."""

    values: Any     # (O, I)    int8
    scales: Any     # (O, 1)    in the dtype of the weights that it was made from

    @property
    def shape(self):
        """(O, I), as the weight that it stands for."""
        return self.values.shape

    @property
    def size(self):
        """How many numbers the weight has."""
        return self.values.size

    @property
    def nbytes(self):
        """The memory of both arrays."""
        return self.values.nbytes + self.scales.nbytes

    def __array__(self, dtype=None, copy=None):
        raise TypeError("a quantised weight: expected .values and .scales to be used, got a call for one array; a "
                        "quantised model can be neither saved nor trained")


def quantize_rows(weight):
    """The nearest matrix of whole numbers times one scale a row.   weight: (O, I)  ->  values: (O, I), scales: (O, 1).

        scale = max|w| / 127,   value = round(w / scale)

    so that no weight moves by more than scale / 2: at most 1/254 of the largest of its row. A row of zeros has the
    scale 0.
    """
    xp = array_namespace(weight)
    scales = xp.max(xp.abs(weight), axis=1, keepdims=True) / LARGEST    # (O, I) -> (O, 1)
    divisors = xp.where(scales == 0, xp.ones_like(scales), scales)      # (O, 1)
    values = xp.clip(xp.rint(weight / divisors), -LARGEST, LARGEST)     # (O, I)
    return values.astype("int8"), scales


def quantized_linear(x, values, scales):
    """y = x @ (values · scales)ᵀ.

    x: (..., I), values: (O, I) int8, scales: (O, 1)  ->  y: (..., O).

    A scale belongs to a whole row, so it can wait until the row is summed up: y = (x @ valuesᵀ) · scalesᵀ. The values
    become floats in blocks of rows, never all at once. With the scales of `quantize_rows`, no weight is further than
    scale / 2 from the one it stands for, and y[o] no further than Σ|x| · scales[o] / 2 from what that one gives.

    Raises ValueError where the shapes do not fit together, TypeError for values that are not int8.
    """
    check_quantized(x, values, scales)
    xp = array_namespace(x)
    rows = as_rows(x)                                                   # (..., I) -> (N, I)
    y = xp.empty((rows.shape[0], values.shape[0]), dtype=x.dtype)       # (N, O)
    for start in range(0, values.shape[0], BLOCK):
        block = slice(start, start + BLOCK)
        y[:, block] = (rows @ values[block].astype(x.dtype).T) * scales[block].T    # (N, I) @ (I, block) -> (N, block)
    return y.reshape(*x.shape[:-1], values.shape[0])                    # (N, O) -> (..., O)


def check_quantized(x, values, scales):
    """Raise unless the arguments of `quantized_linear` fit together: a kernel would read beyond their ends."""
    if values.dtype.name != "int8":
        raise TypeError(f"values: expected an array of int8, got {values.dtype}")
    if values.ndim != 2 or x.shape[-1:] != values.shape[1:]:
        raise ValueError(f"values: expected the shape (O, {x.shape[-1]}), by the last dimension of x, "
                         f"got {values.shape}")
    require_shape(scales, (values.shape[0], 1), "scales", "one number for each row of values")
