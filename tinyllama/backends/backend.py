"""A backend: an array library together with the operations, each as fast as that library allows."""

import difflib
import functools
import inspect

from tinyllama.ops import OPS


class Backend:
    """The operations of `tinyllama.ops` for one array library, as attributes: `backend.rmsnorm_forward`, ...

    name: what `load_backend` calls it. xp: the namespace of its arrays. asarray(x, dtype=None): an array of this
    backend from anything array-like. to_numpy(x): a NumPy array. zeros(size, dtype): a flat array that begins on a
    multiple of 64 bytes. synchronize(): returns once all work is done. runs_in_threads: whether several Python threads
    may share the work of a step. new_token_step: None, or a function that makes one fused step of decoding out of the
    weights of a LLaMA, as `backends/cpu/decoding.py` does; it calls none of the operations. pack: see the method; None
    for a copy as it is. compile_kernels(dtype): an iterator that compiles whatever would otherwise be compiled on its
    first use, and yields (done, total).

    An operation that calls another has a keyword of that name (attention has `softmax_forward`); it is handed this
    backend's.
    """

    def __init__(self, name, xp, functions, *, asarray, to_numpy, zeros, synchronize, runs_in_threads,
                 new_token_step=None, pack=None, compile_kernels=None, replaced=frozenset()):
        self.name, self.xp = name, xp
        self.asarray, self.to_numpy, self.zeros, self.synchronize = asarray, to_numpy, zeros, synchronize
        self.runs_in_threads, self.new_token_step = runs_in_threads, new_token_step
        self._pack = pack
        self.compile_kernels = compile_kernels or (lambda dtype: iter(()))
        self._functions = functions
        self._replaced = replaced
        for function_name, function in functions.items():
            callees = {callee: functions[callee] for callee in _called_by(function)
                       if functions[callee] is not OPS[callee]}
            if callees:
                function = functools.wraps(function)(functools.partial(function, **callees))
            setattr(self, function_name, function)

    def pack(self, weight):
        """An own copy of a `QuantizedWeight` in the order in which the operations of this backend read it fastest."""
        if self._pack is not None:
            return self._pack(weight)
        return weight.map(self._copy)

    def _copy(self, array):
        copied = self.zeros(array.size, array.dtype).reshape(array.shape)
        copied[...] = array
        return copied

    def with_ops(self, **functions):
        """A new backend with some functions replaced: a learner's own, a wrong version in a test, a new kernel.

        Where the readable version of an operation calls a replaced one and this backend's fused kernel does not, the
        readable pair comes back, so that a replacement is always reached; for the same reason the new backend has no
        `new_token_step`, and leaves quantised weights as they are where a function that reads them is replaced. Forward
        and backward share a cache: replace both, or keep to the cache of the one that stays.
        Raises ValueError for a name that is no operation.
        """
        for name in functions:
            if name not in OPS:
                close = difflib.get_close_matches(name, OPS, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise ValueError(f"with_ops: {name!r} is not an operation of tinyllama.ops{hint}")
            if not callable(functions[name]):
                raise TypeError(f"with_ops: expected a function for {name}, got {functions[name]!r}")
        replaced = self._replaced | set(functions)
        combined = self._functions | functions
        for name, readable in OPS.items():
            pair = {name, name.replace("_forward", "_backward"), name.replace("_backward", "_forward")}
            skipped = (_called_by(readable) & set(functions)) - _called_by(combined[name])
            if skipped and not pair & replaced:
                combined |= {member: OPS[member] for member in pair}
        reads_packed = all(combined[name] is self._functions[name] for name in ("quantized_linear", "dequantize"))
        return Backend(self.name, self.xp, combined, asarray=self.asarray, to_numpy=self.to_numpy, zeros=self.zeros,
                       synchronize=self.synchronize, runs_in_threads=self.runs_in_threads,
                       pack=self._pack if reads_packed else None, compile_kernels=self.compile_kernels,
                       replaced=replaced)

    def __repr__(self):
        own = f", with own {', '.join(sorted(self._replaced))}" if self._replaced else ""
        return f"<Backend {self.name!r}{own}>"


def _called_by(function):
    """The names of the operations that `function` takes as keywords."""
    try:
        return set(inspect.signature(function).parameters) & set(OPS)
    except (TypeError, ValueError):
        return set()
