"""One new token through a whole LLaMA, in one call of compiled code for each thread of a team.

What is computed is `models/network.py` for one row and one token, operation by operation, in fewer calls.
Every member of the team computes its share of the rows of each product, and its share of the heads, and waits for the
others where it needs what they have computed. The norms are so cheap that each member computes them for itself.
"""

import functools

import numpy as np
from numba import config
from numba.extending import register_jitable

from tinyllama.backends.cpu.compiling import kernel
from tinyllama.backends.cpu.exponential import exponential
from tinyllama.backends.cpu.matrices import (
    LENGTH,
    address_of,
    array_at,
    describe,
    look_up,
    most_groups,
    multiply,
    split,
    unit,
)
from tinyllama.backends.cpu.packed_weight import ROWS
from tinyllama.backends.cpu.team import meet, run_as_team, share
from tinyllama.backends.threads import cores

# What a layer is made of, in the order of its row of numbers: the addresses of four norms, and seven matrices.
VECTORS = ("attention_norm", "mlp_norm", "q_norm", "k_norm")
ATTENTION_NORM, MLP_NORM, Q_NORM, K_NORM = range(4)
Q, K, V, OUTPUT, GATE, UP, DOWN = range(4, 4 + 7 * LENGTH, LENGTH)
EMBEDDING, HEAD, NORM = 0, LENGTH, 2 * LENGTH           # the row of what lies around the layers
BYTES_OF_A_MEMBER = 2**22       # of weights: with less, a member costs more than it brings


def new_token_step(*, embedding, layers, norm, head, eps, cos, sin, heads, window, keys, values, workers=None):
    """A function step(token, position) -> logits (V,): one token of one text through a LLaMA.

    embedding, head: matrices (V, hidden). norm: (hidden,). layers: a dictionary for each block, with the vectors
    "attention_norm" and "mlp_norm" (hidden,), "q_norm" and "k_norm" (D,) or None, and the matrices
    "qkv" ((H + 2 KV) D, hidden), "output" (hidden, H D), "gate_up" (2 I, hidden) and "down" (hidden, I), each with a
    bias as in "qkv_bias", which may be None. A matrix is an array of the dtype of the norms, or a quantised weight as
    `pack` returns it; "qkv" and "gate_up" are arrays or a `StackedWeight` of three and of two.
    eps: that of the norms. cos, sin: (P, D/2), or None for no rotation. heads: H. window: how many tokens back a token
    sees, or None. keys, values: (layers, 1, KV, capacity, D), which hold the tokens before `position` and are given
    this one's. workers: the largest number of threads; None is as many as the process has cores.

    All arrays are read where they lie, at every step: they must not move. Raises ValueError for an array that is not
    contiguous.
    """
    dtype = norm.dtype
    capacity, head_dim = keys.shape[3:]
    sizes = (embedding.shape[1], heads, keys.shape[2], head_dim, layers[0]["down"].shape[1], head.shape[0])
    hidden, _, key_value_heads, _, intermediate, vocab_size = sizes
    parts = [_matrices(layer, heads * head_dim, key_value_heads * head_dim, intermediate) for layer in layers]
    table = np.array([[address_of(layer[name]) for name in VECTORS]
                      + [number for matrix, bias in of_a_layer for number in describe(matrix, bias)]
                      for layer, of_a_layer in zip(layers, parts, strict=True)])        # (layers, 4 + 7 · LENGTH)
    ends = np.array([*describe(embedding), *describe(head), address_of(norm)])          # (2 · LENGTH + 1,)
    matrices = [matrix for of_a_layer in parts for matrix, _ in of_a_layer] + [head]
    no_table = np.empty((0, 0), dtype)
    tables = (no_table, no_table) if cos is None else (cos, sin)
    cache = tuple(array.reshape(len(layers), key_value_heads, capacity, head_dim) for array in (keys, values))
    shared = tuple(np.empty(size, dtype) for size in (
        hidden, (heads + 2 * key_value_heads) * head_dim, heads * head_dim, intermediate))
    size = _choose_size(workers, sum(matrix.nbytes for matrix in matrices))
    lengths = (hidden, capacity, 2 * intermediate, most_groups(matrices) + ROWS)
    own = [tuple(np.empty(length, dtype) for length in lengths) for _ in range(size)]
    together, bytes_of = max(map(unit, matrices)), np.empty(0, np.uint8)

    def step(token, position):
        if not 0 <= position < capacity or not 0 <= token < vocab_size:
            raise IndexError(f"step: expected a token below {vocab_size} at a position below {capacity}, "
                             f"got {token} at {position}")
        logits = np.empty(vocab_size, dtype)
        first = 0 if window is None else max(position - window + 1, 0)
        work = functools.partial(_work, own, token, position, first, sizes, together, dtype.type(eps), bytes_of, table,
                                 ends, *tables, *cache, shared, logits)
        run_as_team(work, size)
        return logits

    step.reads = (embedding, layers, norm, head)        # kept alive: the kernel knows only where they lie
    return step


def _matrices(layer, query_rows, key_value_rows, intermediate):
    """[(matrix, bias), ...] of a layer, in the order of its row of numbers."""
    return [*split(layer["qkv"], layer["qkv_bias"], (query_rows, key_value_rows, key_value_rows)),
            (layer["output"], layer["output_bias"]),
            *split(layer["gate_up"], layer["gate_up_bias"], (intermediate, intermediate)),
            (layer["down"], layer["down_bias"])]


def _work(own, token, position, first, *arguments):
    *others, rank, size, meeting = arguments
    return _token_step(rank, size, meeting, token, position, first, *others, own[rank])


def _choose_size(workers, nbytes):
    if config.DISABLE_JIT:          # members of a team meet in compiled code only
        return 1
    most = cores() if workers is None else min(workers, cores())
    return max(1, min(most, nbytes // BYTES_OF_A_MEMBER))


@kernel("(int64, int64, int64[::1], int64, int64, int64, UniTuple(int64, 6), int64, T, uint8[::1], int64[:, ::1], "
        "int64[::1], T[:, ::1], T[:, ::1], T[:, :, :, ::1], T[:, :, :, ::1], UniTuple(T[::1], 4), T[::1], "
        "UniTuple(T[::1], 4))")
def _token_step(rank, size, meeting, token, position, first, sizes, together, eps, bytes_of, table, ends, cos, sin,
                keys, values, shared, logits, own):
    """Write one member's rows of logits (V,); False where a meeting was cancelled.

    together: how many rows of a matrix are not to be divided. shared: arrays for all members; own: for this one.
    """
    hidden, heads, key_value_heads, head_dim, intermediate, vocab_size = sizes
    x, qkv, attended, activated = shared
    normed, scores, gate_up, work = own
    met = 1
    if rank == 0:
        look_up(ends, EMBEDDING, bytes_of, token, x)
    if not meet(meeting, met, size):
        return False
    for layer in range(len(table)):
        row = table[layer]
        _normalise(x, row[ATTENTION_NORM], eps, normed)
        first_head, last_head = share(heads + 2 * key_value_heads, rank, size)
        start = 0
        for place, count in ((Q, heads), (K, key_value_heads), (V, key_value_heads)):
            first_row = min(max(first_head - start, 0), count) * head_dim
            last_row = min(max(last_head - start, 0), count) * head_dim
            multiply(row, place, bytes_of, count * head_dim, first_row, last_row, normed, work, qkv[start * head_dim:])
            start += count
        _normalise_heads(qkv, first_head, last_head, 0, heads, row[Q_NORM], eps, head_dim)
        _normalise_heads(qkv, first_head, last_head, heads, heads + key_value_heads, row[K_NORM], eps, head_dim)
        _rotate_and_store(qkv, first_head, last_head, heads, position, cos, sin, keys[layer], values[layer])
        met += 1
        if not meet(meeting, met, size):
            return False
        first_head, last_head = share(heads, rank, size)
        for head in range(first_head, last_head):
            group = head * key_value_heads // heads
            _attend(qkv[head * head_dim:(head + 1) * head_dim], keys[layer, group], values[layer, group], first,
                    position + 1, scores, attended[head * head_dim:(head + 1) * head_dim])
        met += 1
        if not meet(meeting, met, size):
            return False
        first_row, last_row = _share_rows(hidden, together, rank, size)
        multiply(row, OUTPUT, bytes_of, hidden, first_row, last_row, attended, work, normed)
        for i in range(first_row, last_row):
            x[i] += normed[i]
        met += 1
        if not meet(meeting, met, size):
            return False
        _normalise(x, row[MLP_NORM], eps, normed)
        first_row, last_row = _share_rows(intermediate, together, rank, size)
        gate, up = gate_up[:intermediate], gate_up[intermediate:]
        multiply(row, GATE, bytes_of, intermediate, first_row, last_row, normed, work, gate)
        multiply(row, UP, bytes_of, intermediate, first_row, last_row, normed, work, up)
        _activate(gate[first_row:last_row], up[first_row:last_row], activated[first_row:last_row])
        met += 1
        if not meet(meeting, met, size):
            return False
        first_row, last_row = _share_rows(hidden, together, rank, size)
        multiply(row, DOWN, bytes_of, hidden, first_row, last_row, activated, work, normed)
        for i in range(first_row, last_row):
            x[i] += normed[i]
        met += 1
        if not meet(meeting, met, size):
            return False
    _normalise(x, ends[NORM], eps, normed)
    first_row, last_row = _share_rows(vocab_size, together, rank, size)
    multiply(ends, HEAD, bytes_of, vocab_size, first_row, last_row, normed, work, logits)
    return meet(meeting, met + 1, size)


@register_jitable
def _share_rows(count, together, rank, size):
    """(first, last): the rows that fall to a member, a whole number of blocks of `together` rows but for the last."""
    first, last = share((count + together - 1) // together, rank, size)
    return first * together, min(last * together, count)


@register_jitable
def _normalise(x, address, eps, y):
    """y = rmsnorm(x) with the weight that lies at `address`. x and y may be the same."""
    weight = array_at(address, x.size, x)
    one, total, count = x.dtype.type(1), x.dtype.type(0), x.dtype.type(x.size)
    for j in range(x.size):
        total += x[j] * x[j]
    rstd = one / np.sqrt(total / count + eps)
    for j in range(x.size):
        y[j] = x[j] * rstd * weight[j]


@register_jitable
def _normalise_heads(qkv, first_head, last_head, first, last, address, eps, width):
    """Normalise those of the heads `first_head` to `last_head` - 1 that are from `first` to `last` - 1, in place.

    Where the address of the weight is 0, there is no norm.
    """
    if address != 0:
        for head in range(max(first_head, first), min(last_head, last)):
            vector = qkv[head * width:(head + 1) * width]
            _normalise(vector, address, eps, vector)


@register_jitable
def _rotate_and_store(qkv, first_head, last_head, heads, position, cos, sin, keys, values):
    """Turn some of the heads of q and k in place, and write those of k and v into the cache of their layer."""
    key_value_heads, _, width = keys.shape
    half = width // 2
    for head in range(first_head, last_head):
        vector = qkv[head * width:(head + 1) * width]
        if head < heads + key_value_heads and len(cos) > 0:
            for i in range(half):
                a, b = vector[i], vector[half + i]
                vector[i] = a * cos[position, i] - b * sin[position, i]
                vector[half + i] = a * sin[position, i] + b * cos[position, i]
        if head >= heads + key_value_heads:
            stored = values[head - heads - key_value_heads, position]
            for i in range(width):
                stored[i] = vector[i]
        elif head >= heads:
            stored = keys[head - heads, position]
            for i in range(width):
                stored[i] = vector[i]


@register_jitable
def _attend(q, keys, values, first, stop, scores, y):
    """y = softmax(q · keys / sqrt(D)) @ values over the keys `first` to `stop` - 1.   keys, values: (capacity, D)."""
    zero, one = q.dtype.type(0), q.dtype.type(1)
    width = q.size
    scale = one / np.sqrt(q.dtype.type(width))
    largest = zero
    for t in range(first, stop):
        key, score = keys[t], zero
        for i in range(width):
            score += q[i] * key[i]
        score *= scale
        scores[t] = score
        if t == first or score > largest:
            largest = score
    total = zero
    for t in range(first, stop):
        scores[t] = exponential(scores[t] - largest)
        total += scores[t]
    for i in range(width):
        y[i] = zero
    for t in range(first, stop):
        value, share_of_t = values[t], scores[t]
        for i in range(width):
            y[i] += share_of_t * value[i]
    for i in range(width):
        y[i] /= total


@register_jitable
def _activate(gate, up, y):
    """y = gate · sigmoid(gate) · up."""
    one, lowest = gate.dtype.type(1), gate.dtype.type(-80)
    for j in range(y.size):
        g = gate[j]
        held = lowest if g < lowest else g              # as in the readable sigmoid
        y[j] = g / (one + exponential(-held)) * up[j]
