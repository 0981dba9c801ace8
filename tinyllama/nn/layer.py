"""What every layer is."""

from typing import Any, NamedTuple

from tinyllama.nn.parameters import Parameters


class Layer:
    """Named parameters and the operations they go through.

        y, cache = layer.forward(x)             layers that need to know more take a `Context` as well
        dx       = layer.backward(dy, cache, grads)

    `backward` adds the gradients of its parameters into `grads`, the caller's named views; what is not in `grads` is
    frozen, and no gradient is computed for it. A layer keeps nothing between calls, so the same layer can run twice,
    be shared, and run in several threads at once.
    """

    parameters: Any = None      # the named weights, once bound
    ops: Any = None             # the backend whose operations are used, once bound

    def own_declarations(self):
        """The parameters of this layer itself, without those of the layers inside it."""
        return []

    def children(self):
        """The layers inside this one, in the order in which they were made."""
        for value in vars(self).values():
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, Layer):
                    yield item

    def declarations(self):
        """The parameters of this layer and of all layers inside it."""
        return self.own_declarations() + [d for child in self.children() for d in child.declarations()]

    def bind(self, parameters, backend):
        """Give this layer, and all inside it, the weights and the operations to use."""
        self.parameters, self.ops = parameters, backend
        for child in self.children():
            child.bind(parameters, backend)

    def initialize(self, backend, *, dtype="float32", seed=0, frozen=(), other_names=None):
        """Make the parameters of this layer and all inside it, bind them, and return them as `Parameters`."""
        parameters = Parameters(self.declarations(), backend, dtype=dtype, seed=seed, frozen=frozen,
                                other_names=other_names)
        self.bind(parameters, backend)
        return parameters


class Context(NamedTuple):
    """What a layer may need to know of the pass that it is part of, beside its input."""

    layer: int = 0              # which block is running, counted from 0; shared weights run under several numbers
    cos: Any = None             # the rotation at the positions of this pass: (T, D/2) or (B, 1, T, D/2);
    sin: Any = None             #   None where positions are not rotary
    query_start: Any = None     # the position of the first token: a number or (B,); None is 0
    key_length: Any = None      # how many keys are real: a number or (B,); None is all
    documents: Any = None       # (B, T): the number of the document that each token belongs to; None is one a row
    kv_cache: Any = None        # keys and values of earlier tokens, owned by the caller
    dropout: Any = None         # (seed, step, micro-step); None switches dropout off
    first_row: int = 0          # the number of the first row of this shard in the whole batch
