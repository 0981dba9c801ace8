"""The gradient checker: is this backward the derivative of that forward?

A derivative can be measured without knowing it: move the input a little, both ways, and see how far the output goes.
Two random vectors turn that into one number per argument. With a direction v for the argument and a cotangent dy for
the result, the derivative satisfies

    ⟨dy, (f(x + h v) - f(x - h v)) / 2h⟩  =  ⟨backward(dy), v⟩      up to h² and rounding

and a backward pass with a missing term, a wrong sign or a wrong mask does not. Both vectors are random because a
special one can be blind: the outputs of softmax have a fixed sum, so a cotangent of ones would accept a backward that
returns zeros. Everything happens in float64. Derived in chapter 02.
"""

import inspect
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

LARGEST_JACOBIAN = 300      # elements of argument and result together up to which every derivative is checked
ELEMENTS_TO_SEARCH = 500    # differences spent on finding the worst element of a wrong gradient
STREAM = 0x67726164         # "grad" in ASCII: check_seed=0 must not draw what the caller drew from default_rng(0)


class GradientError(AssertionError):
    """A backward pass is not the derivative of its forward pass. `report` holds the figures, where it came that far."""

    def __init__(self, message, report=None):
        super().__init__(message)
        self.report = report


class ArgumentReport(NamedTuple):
    """How well the gradient of one argument agrees with differences."""

    argument: str
    shape: tuple
    expected: float                 # the directional derivative by differences
    received: float                 # the same by backward
    norm: float                     # the length of the whole gradient
    error: float                    # |received - expected|, relative to the largest of them and the norm
    jacobian_error: float | None    # the largest error of any derivative, relative to the largest derivative;
                                    # None where there are too many to try

    @property
    def worst(self):
        """The larger of the two errors; not a number if either is not."""
        return float(np.max([self.error, self.jacobian_error or 0.0]))


@dataclass(frozen=True)
class GradientReport:
    """The result of a gradient check, one row an argument. Prints as a table."""

    function: str
    rows: tuple[ArgumentReport, ...]
    tolerance: float

    @property
    def error(self):
        """The largest error of any argument, from the random direction and from the Jacobian."""
        return float(np.max([row.worst for row in self.rows]))      # NaN, which max() may drop, stays

    def __str__(self):
        width = max(len("argument"), *(len(row.argument) for row in self.rows))
        lines = [f"{self.function}: largest relative error {self.error:.1e}, allowed {self.tolerance:.0e}",
                 f"  {'argument':<{width}}  {'shape':<16} {'expected':>14} {'received':>14} {'norm':>9} {'error':>8}"
                 "  Jacobian"]
        for row in self.rows:
            jacobian = "too large" if row.jacobian_error is None else f"{row.jacobian_error:.1e}"
            lines.append(f"  {row.argument:<{width}}  {row.shape!s:<16} {row.expected:>14.6e} {row.received:>14.6e} "
                         f"{row.norm:>9.2e} {row.error:>8.1e}  {jacobian}")
        return "\n".join(lines)


def gradcheck(forward, backward, *arrays, tolerance=1e-7, step=1e-5, check_seed=0, **settings):
    """Check `backward` against central differences of `forward`, for every differentiable argument.

    forward(*arrays, **settings) -> (y, cache) and backward(dy, cache) -> gradients are a pair by the contract of
    `tinyllama.ops`. The floating-point arrays are converted to float64 and differentiated; integer arrays and None pass
    through. Each argument is tried along one random direction with a random cotangent; where argument and result are
    small, all their derivatives (the Jacobian) are compared as well.

    tolerance: the largest relative error allowed. step: the length h of the differences; truncation grows with its
    square, rounding with its inverse, and 1e-5 lies between. check_seed: draws the random vectors.

    Returns a `GradientReport`. Raises `GradientError`, naming function, argument, element, what was expected and what
    was received, if a gradient is wrong, has the wrong shape, is zero altogether (the check would prove nothing), or if
    a function changed its arguments. Derived in chapter 02.
    """
    problem = _Problem(forward, backward, arrays, settings, check_seed)
    gradients = problem.gradients(problem.dy)
    problem.check_that_backward_keeps_its_cache()
    rows = [_check_argument(problem, i, gradients[i], step) for i in problem.differentiable]
    report = GradientReport(problem.name, tuple(rows), tolerance)
    for i, row in zip(problem.differentiable, rows, strict=True):
        wrong = not row.worst <= tolerance
        if wrong or not row.norm > 0:
            verdict = "is wrong" if wrong else "is all zeros, and so are the differences: this proves nothing"
            raise GradientError(f"{problem.name}: the gradient of {row.argument} {verdict}.\n"
                                f"{problem.worst_element(i, gradients[i], step)}\n{report}", report)
    return report


def step_sweep(forward, backward, *arrays, steps=tuple(10.0**-e for e in range(1, 14)), check_seed=0, **settings):
    """The error of a gradient check as a function of the step: a list of (step, error).

    Drawn on logarithmic axes it is a U: on the right the truncation of central differences falls with h², on the left
    the rounding of float64 grows with 1/h. Arguments as in `gradcheck`; nothing is raised for a large error. Used in
    chapter 02.
    """
    problem = _Problem(forward, backward, arrays, settings, check_seed)
    gradients = problem.gradients(problem.dy)
    return [(step, max(_directional(problem, i, gradients[i], step).error for i in problem.differentiable))
            for step in steps]


def gradcheck_model(model, ids, targets, *, tolerance=1e-6, step=3e-6, check_seed=0, zero=(), **settings):
    """Check every gradient that `model.loss_and_grads` returns against differences of `model.loss`.

    Each named parameter is moved, in place and back, along one random direction. The loss is a single number, so there
    is no cotangent to choose. `settings` go to both functions. The model must be in float64, on the CPU; its gradient
    buffer is overwritten. The step is shorter than that of `gradcheck`, because a whole network is more curved.

    zero: the names of parameters on which, by theory, the loss does not depend, such as a key bias without rotation
    (it adds the same number to all scores of a query). For them a step of length 1 must change nothing, and the
    gradient must vanish, both to 1e-12 of the largest gradient.

    Returns a `GradientReport` with a row for each parameter, and raises `GradientError` like `gradcheck`.
    """
    rng = np.random.default_rng([check_seed, STREAM])
    _, grads = model.loss_and_grads(ids, targets, **settings)
    unknown = [name for name in zero if name not in grads]
    if not grads:
        raise ValueError("model: expected at least one trainable parameter, got none")
    if unknown:
        raise ValueError(f"zero: expected names of trainable parameters, got {unknown}")
    rows = []
    for name, gradient in grads.items():
        weight = model.parameters[name]
        if weight.dtype != np.float64:
            raise TypeError(f"model: expected float64 parameters, got {weight.dtype} in {name}")
        start, direction = weight.copy(), rng.normal(size=weight.shape)
        length = 1.0 if name in zero else step
        losses = []
        try:
            for sign in (1, -1):
                weight[...] = start + sign * length * direction
                losses.append(float(model.loss(ids, targets, **settings)))
        finally:
            weight[...] = start
        rows.append(_row(name, gradient, direction, (losses[0] - losses[1]) / (2 * length)))
    scale = max(row.norm for row in rows)
    rows = [row._replace(error=max(abs(row.expected), row.norm) / scale) if row.argument in zero else row
            for row in rows]
    report = GradientReport(type(model).__name__, tuple(rows), tolerance)
    for row in rows:
        if row.argument in zero:
            is_right = row.error <= 1e-12
        else:
            is_right = row.norm > 0 and row.error <= tolerance
        if not is_right:
            raise GradientError(f"{report.function}: the gradient of {row.argument} is wrong: along a random direction "
                                f"expected {row.expected:.9e}, received {row.received:.9e}, "
                                f"length {row.norm:.1e}.\n{report}", report)
    return report


class _Problem:
    """A pair of functions with their arguments in float64, a cotangent, and a direction for each argument."""

    def __init__(self, forward, backward, arrays, settings, check_seed):
        self.forward, self.backward, self.settings = forward, backward, settings
        self.name = getattr(backward, "__name__", "backward")
        self.arrays = [_as_float64(array) for array in arrays]
        self.names = _argument_names(forward, len(arrays))
        self.differentiable = [i for i, array in enumerate(self.arrays)
                               if array is not None and array.dtype.kind == "f"]
        if not self.differentiable:
            raise TypeError(f"{self.name}: expected at least one floating-point array among the arguments, got none")
        rng = np.random.default_rng([check_seed, STREAM])
        named = zip([*self.names, *settings], [*self.arrays, *settings.values()], strict=True)
        self._originals = [(name, array, array.copy()) for name, array in named if isinstance(array, np.ndarray)]
        y = self.value()
        self._require_unchanged("forward")
        self.dy = np.asarray(rng.normal(size=y.shape))
        self.directions = {i: rng.normal(size=self.arrays[i].shape) for i in self.differentiable}

    def value(self, moved=None, direction=None, step=0.0):
        """y, with the argument number `moved` displaced by step · direction."""
        arrays = [array + step * direction if i == moved else array for i, array in enumerate(self.arrays)]
        result = self.forward(*arrays, **self.settings)
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise GradientError(f"{self.name}: the forward function must return (y, cache), "
                                f"got {type(result).__name__}")
        return np.asarray(result[0])

    def difference(self, i, direction, step):
        """(f(x + h v) - f(x - h v)) / 2h, an array of y's shape."""
        return (self.value(i, direction, step) - self.value(i, direction, -step)) / (2 * step)

    def gradients(self, dy):
        """What backward returns, by argument number, after checking its form."""
        _, cache = self.forward(*self.arrays, **self.settings)
        received = self._call_backward(dy, cache)
        expected = [i for i, array in enumerate(self.arrays) if array is None or array.dtype.kind == "f"]
        if len(received) < len(expected) or any(extra is not None for extra in received[len(expected):]):
            raise GradientError(f"{self.name}: expected one gradient for each of "
                                f"{', '.join(self.names[i] for i in expected)}, got {len(received)}")
        gradients = dict(zip(expected, received, strict=False))
        for i in self.differentiable:
            shape = None if gradients[i] is None else np.shape(gradients[i])
            if shape != self.arrays[i].shape:
                got = "None" if shape is None else f"the shape {shape}"
                raise GradientError(f"{self.name}: the gradient of {self.names[i]} must have its shape "
                                    f"{self.arrays[i].shape}, got {got}")
        return {i: np.asarray(gradients[i]) for i in self.differentiable}

    def check_that_backward_keeps_its_cache(self):
        """Call backward twice with one cache: a call that writes into it changes the second result."""
        _, cache = self.forward(*self.arrays, **self.settings)
        first, second = self._call_backward(self.dy, cache), self._call_backward(self.dy, cache)
        for mine, again in zip(first, second, strict=True):
            if mine is not None and not np.array_equal(mine, again, equal_nan=True):
                raise GradientError(f"{self.name}: called twice with the same cache, it gave two results: "
                                    "the first call changed the cache")

    def _call_backward(self, dy, cache):
        given = dy.copy()
        received = self.backward(given, cache)
        if not np.array_equal(given, dy):
            raise GradientError(f"{self.name}: it changed the gradient that it was given")
        self._require_unchanged("backward")
        received = received if isinstance(received, tuple | list) else [received]
        return [None if gradient is None else np.array(gradient) for gradient in received]

    def _require_unchanged(self, direction):
        for name, array, original in self._originals:
            if not np.array_equal(array, original, equal_nan=array.dtype.kind == "f"):
                raise GradientError(f"{self.name}: the {direction} function changed {name}, which it was given to read")

    def jacobian_error(self, i, step):
        """The largest difference between the Jacobian by columns (differences) and by rows (backward), relative."""
        x, y_size = self.arrays[i], self.dy.size
        by_differences = np.empty((y_size, x.size))
        for column, direction in enumerate(np.eye(x.size)):
            by_differences[:, column] = self.difference(i, direction.reshape(x.shape), step).reshape(-1)
        by_backward = np.empty((y_size, x.size))
        for row, cotangent in enumerate(np.eye(y_size)):
            by_backward[row] = self.gradients(cotangent.reshape(self.dy.shape))[i].reshape(-1)
        scale = np.max(np.abs(by_differences), initial=0.0)
        difference = np.max(np.abs(by_backward - by_differences), initial=0.0)
        return float(difference / scale) if scale > 0 else float(difference)

    def worst_element(self, i, gradient, step):
        """A sentence that names the element of a wrong gradient that is furthest off."""
        x = self.arrays[i]
        tried = np.arange(x.size)
        if x.size > ELEMENTS_TO_SEARCH:
            tried = np.sort(np.random.default_rng(0).choice(x.size, ELEMENTS_TO_SEARCH, replace=False))
        expected = []
        for element in tried:
            direction = np.zeros(x.size)
            direction[element] = 1.0
            expected.append(np.sum(self.dy * self.difference(i, direction.reshape(x.shape), step)))
        distance = np.abs(gradient.reshape(-1)[tried] - expected)
        worst = int(np.argmax(np.where(np.isnan(distance), np.inf, distance)))
        index = ", ".join(str(int(n)) for n in np.unravel_index(tried[worst], x.shape))
        return (f"Furthest off, of {len(tried)} elements tried: {self.names[i]}[{index}], "
                f"expected {expected[worst]:.9e}, received {gradient.reshape(-1)[tried[worst]]:.9e}.")


def _check_argument(problem, i, gradient, step):
    row = _directional(problem, i, gradient, step)
    if gradient.size + problem.dy.size > LARGEST_JACOBIAN:
        return row
    return row._replace(jacobian_error=problem.jacobian_error(i, step))


def _directional(problem, i, gradient, step):
    direction = problem.directions[i]
    expected = float(np.sum(problem.dy * problem.difference(i, direction, step)))
    return _row(problem.names[i], gradient, direction, expected)


def _row(name, gradient, direction, expected):
    received = float(np.sum(gradient * direction))
    norm = float(np.linalg.norm(gradient))
    # ⟨gradient, direction⟩ is of the size of the norm, but may happen to be near zero: the norm is the fairer scale.
    scale = max(abs(expected), abs(received), norm)
    error = abs(received - expected) / scale if scale > 0 else 0.0
    return ArgumentReport(name, gradient.shape, expected, received, norm, error, None)


def _as_float64(array):
    if array is None:
        return None
    array = np.asarray(array)
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _argument_names(function, count):
    try:
        names = [p.name for p in inspect.signature(function).parameters.values()
                 if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    except (TypeError, ValueError):
        names = []
    return (names + [f"argument {i}" for i in range(len(names), count)])[:count]
