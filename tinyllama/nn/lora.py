"""LoRA: beside a frozen matrix two thin ones, whose product is added to it, and only these two are trained."""

from tinyllama.nn.layer import Layer
from tinyllama.nn.parameters import Declaration
from tinyllama.ops.array import array_namespace

FACTORS = ("lora_A.weight", "lora_B.weight")        # how the names of the two end, as PEFT has them


class LowRankUpdate(Layer):
    """y = scale · (x @ Aᵀ) @ Bᵀ: the product with scale · B @ A, a matrix (O, I) of rank r at most.

    The parameters are NAME.lora_A.weight (r, I) and NAME.lora_B.weight (O, r). Never multiplied with each other, they
    cost r (I + O) numbers, and as many multiplications a token, where a matrix costs I · O. Both begin at zero here:
    whoever makes the model draws A, while B stays zero, so that the first update is none. Source: Hu et al. 2021,
    section 4.1.

    Backwards, with h = x @ Aᵀ and z = scale · h, so that y = z @ Bᵀ:

        dB = dyᵀ @ z,   dz = dy @ B,   dh = scale · dz,   dA = dhᵀ @ x,   dx = dh @ A

    As long as B is zero, so is dA: the first step moves B alone.
    """

    def __init__(self, name, in_features, out_features, *, rank, scale):
        self.name, self.scale = name, scale
        self.weight = f"{name}.weight"          # of the matrix that it is added to
        self.a, self.b = (f"{name}.{factor}" for factor in FACTORS)
        self.shapes = {self.a: (rank, in_features), self.b: (out_features, rank)}

    def own_declarations(self):
        """A and B."""
        return [Declaration(name, shape) for name, shape in self.shapes.items()]

    def forward(self, x):
        """x: (..., I)  ->  y: (..., O), cache."""
        h, a_cache = self.ops.linear_forward(x, self.parameters[self.a])                # (..., I) -> (..., r)
        y, b_cache = self.ops.linear_forward(self.scale * h, self.parameters[self.b])   # (..., r) -> (..., O)
        return y, (a_cache, b_cache)

    def backward(self, dy, cache, grads):
        """dy: (..., O)  ->  dx: (..., I)."""
        a_cache, b_cache = cache
        dz, db, _ = self.ops.linear_backward(dy, b_cache, (True, self.b in grads, False))               # (..., r)
        dx, da, _ = self.ops.linear_backward(self.scale * dz, a_cache, (True, self.a in grads, False))  # (..., I)
        grads.add(self.b, db)
        grads.add(self.a, da)
        return dx

    def matrix(self):
        """scale · B @ A: (O, r) @ (r, I) -> (O, I)."""
        return self.scale * (self.parameters[self.b] @ self.parameters[self.a])


class LoraLinear(Layer):
    """A linear layer with low-rank updates of some of its parts:  y[rows] = linear(x)[rows] + update(x).

    linear: a `Linear`, whose weight is to be frozen. targets: those of its parts (PREFIX.q_proj, ... of a fused
    product; itself, where it has no parts) that get an update of `rank`; each is added to the rows of its part.
    """

    def __init__(self, linear, targets, *, rank, scale):
        self.linear = linear
        out_features, in_features = linear.shape
        parts = linear.parts or {linear.weight.removesuffix(".weight"): out_features}
        self.pieces, start = [], 0          # (rows, update or None), one after another, which make up all rows
        for name, rows in parts.items():
            update = LowRankUpdate(name, in_features, rows, rank=rank, scale=scale) if name in targets else None
            self.pieces.append((slice(start, start + rows), update))
            start += rows

    def children(self):
        """The linear layer, then its updates."""
        return [self.linear, *self.updates()]

    def updates(self):
        """The `LowRankUpdate` of each part that has one."""
        return [update for _, update in self.pieces if update is not None]

    def forward(self, x):
        """x: (..., I)  ->  y: (..., O), cache."""
        xp = array_namespace(x)
        y, linear_cache = self.linear.forward(x)                            # (..., I) -> (..., O)
        columns, caches = [], []
        for rows, update in self.pieces:
            part, cache = y[..., rows], None                                # (..., O) -> (..., rows)
            if update is not None:
                change, cache = update.forward(x)                           # (..., I) -> (..., rows)
                part = part + change
            columns.append(part)
            caches.append(cache)
        y = columns[0] if len(columns) == 1 else xp.concatenate(columns, axis=-1)       # (..., rows) -> (..., O)
        return y, (linear_cache, caches)

    def backward(self, dy, cache, grads):
        """dy: (..., O)  ->  dx: (..., I)."""
        linear_cache, caches = cache
        dx = self.linear.backward(dy, linear_cache, grads)                  # (..., O) -> (..., I)
        for (rows, update), update_cache in zip(self.pieces, caches, strict=True):
            if update is not None:
                dx = dx + update.backward(dy[..., rows], update_cache, grads)           # (..., rows) -> (..., I)
        return dx
