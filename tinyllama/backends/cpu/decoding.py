"""One new token through a whole LLaMA, in one call of compiled code for each thread of a team.

What is computed is `models/network.py` for one row and one token, operation by operation, in fewer calls.
Every member of the team computes its share of the rows of each product, and its share of the heads, and waits for the
others where it needs what they have computed. The norms are so cheap that each member computes them for itself.
"""

import ctypes
import functools

import numpy as np
from numba import carray, config, types
from numba.extending import intrinsic, overload, register_jitable

from tinyllama.backends.cpu.compiling import kernel
from tinyllama.backends.cpu.exponential import exponential
from tinyllama.backends.cpu.matrix_vector import multiply_rows
from tinyllama.backends.cpu.team import meet, run_as_team, share
from tinyllama.backends.threads import cores

# What a layer is made of, in the order of its row of addresses: two norms, and four matrices with scales and a bias.
VECTORS = ("attention_norm", "mlp_norm")
MATRICES = ("qkv", "output", "gate_up", "down")
ATTENTION_NORM, MLP_NORM, QKV, OUTPUT, GATE_UP, DOWN = 0, 1, 2, 5, 8, 11
EMBEDDING, NORM, HEAD = 0, 3, 4
SCALES, BIAS = 1, 2             # places after that of the matrix
BYTES_OF_A_MEMBER = 2**22       # of weights: with less, a member costs more than it brings


def new_token_step(*, embedding, layers, norm, head, eps, cos, sin, heads, window, keys, values, workers=None):
    """A function step(token, position) -> logits (V,): one token of one text through a LLaMA.

    embedding, head: matrices (V, hidden). norm: (hidden,). layers: a dictionary for each block, with the vectors
    "attention_norm" and "mlp_norm" (hidden,) and the matrices "qkv" ((H + 2 KV) D, hidden), "output" (hidden, H D),
    "gate_up" (2 I, hidden) and "down" (hidden, I), each with a bias as in "qkv_bias", which may be None. A matrix is an
    array of the dtype of the norms, or a `QuantizedWeight`; all are of one kind.
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
    addresses = np.array([[_address(layer[name]) for name in VECTORS]
                          + [part for name in MATRICES for part in _matrix(layer[name], layer[f"{name}_bias"])]
                          for layer in layers])                                         # (layers, 14)
    ends = np.array([*_matrix(embedding, None), _address(norm), *_matrix(head, None)])  # (7,)
    no_table = np.empty((0, 0), dtype)
    tables = (no_table, no_table) if cos is None else (cos, sin)
    cache = tuple(array.reshape(len(layers), key_value_heads, capacity, head_dim) for array in (keys, values))
    kind = np.empty(0, _values(head).dtype)
    compiled = _int8_step if kind.dtype == np.int8 else _float_step
    shared = tuple(np.empty(size, dtype) for size in (
        hidden, (heads + 2 * key_value_heads) * head_dim, heads * head_dim, intermediate))
    size = _choose_size(workers, sum(_values(layer[name]).nbytes for layer in layers for name in MATRICES)
                        + _values(head).nbytes)
    own = [tuple(np.empty(length, dtype) for length in (hidden, capacity, 2 * intermediate)) for _ in range(size)]

    def step(token, position):
        if not 0 <= position < capacity or not 0 <= token < vocab_size:
            raise IndexError(f"step: expected a token below {vocab_size} at a position below {capacity}, "
                             f"got {token} at {position}")
        logits = np.empty(vocab_size, dtype)
        first = 0 if window is None else max(position - window + 1, 0)
        work = functools.partial(_work, compiled, own, token, position, first, sizes, dtype.type(eps), kind, addresses,
                                 ends, *tables, *cache, shared, logits)
        run_as_team(work, size)
        return logits

    step.reads = (embedding, layers, norm, head)        # kept alive: the kernel knows only where they lie
    return step


def _work(compiled, own, token, position, first, *arguments):
    *others, rank, size, meeting = arguments
    return compiled(rank, size, meeting, token, position, first, *others, own[rank])


def _choose_size(workers, nbytes):
    if config.DISABLE_JIT:          # members of a team meet in compiled code only
        return 1
    most = cores() if workers is None else min(workers, cores())
    return max(1, min(most, nbytes // BYTES_OF_A_MEMBER))


def _values(matrix):
    return matrix[0] if isinstance(matrix, tuple) else matrix


def _matrix(matrix, bias):
    """The addresses of a matrix, of its scales and of its bias; 0 for what is not there."""
    scales = matrix[1] if isinstance(matrix, tuple) else None
    return [_address(_values(matrix)), _address(scales), _address(bias)]


def _address(array):
    if array is None:
        return 0
    if not array.flags.c_contiguous:
        raise ValueError(f"new_token_step: expected contiguous arrays, got the strides {array.strides}")
    return array.ctypes.data


def _token_step(rank, size, meeting, token, position, first, sizes, eps, kind, addresses, ends, cos, sin, keys, values,
                shared, logits, own):
    """Write one member's rows of logits (V,); False where a meeting was cancelled.

    shared: arrays for all members; own: arrays for this one.
    """
    hidden, heads, key_value_heads, head_dim, intermediate, vocab_size = sizes
    x, qkv, attended, activated = shared
    normed, scores, gate_up = own
    met = 1
    if rank == 0:
        _look_up(token, ends, kind, x)
    if not meet(meeting, met, size):
        return False
    for layer in range(len(addresses)):
        row = addresses[layer]
        _normalise(x, row[ATTENTION_NORM], eps, normed)
        first_head, last_head = share(heads + 2 * key_value_heads, rank, size)
        _multiply(row, QKV, kind, len(qkv), first_head * head_dim, last_head * head_dim, normed, qkv)
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
        first_row, last_row = share(hidden, rank, size)
        _multiply(row, OUTPUT, kind, hidden, first_row, last_row, attended, normed)
        for i in range(first_row, last_row):
            x[i] += normed[i]
        met += 1
        if not meet(meeting, met, size):
            return False
        _normalise(x, row[MLP_NORM], eps, normed)
        first_row, last_row = share(intermediate, rank, size)
        _multiply(row, GATE_UP, kind, 2 * intermediate, first_row, last_row, normed, gate_up)
        _multiply(row, GATE_UP, kind, 2 * intermediate, intermediate + first_row, intermediate + last_row, normed,
                  gate_up)
        _activate(gate_up[first_row:last_row], gate_up[intermediate + first_row:intermediate + last_row],
                  activated[first_row:last_row])
        met += 1
        if not meet(meeting, met, size):
            return False
        first_row, last_row = share(hidden, rank, size)
        _multiply(row, DOWN, kind, hidden, first_row, last_row, activated, normed)
        for i in range(first_row, last_row):
            x[i] += normed[i]
        met += 1
        if not meet(meeting, met, size):
            return False
    _normalise(x, ends[NORM], eps, normed)
    first_row, last_row = share(vocab_size, rank, size)
    _multiply(ends, HEAD, kind, vocab_size, first_row, last_row, normed, logits)
    return meet(meeting, met + 1, size)


@register_jitable
def _look_up(token, ends, kind, x):
    """x = embedding[token]."""
    width = x.size
    table = array_at(ends[EMBEDDING], (token + 1) * width, kind)
    for j in range(width):
        x[j] = table[token * width + j]
    if ends[EMBEDDING + SCALES] != 0:
        scale = array_at(ends[EMBEDDING + SCALES], token + 1, x)[token]
        for j in range(width):
            x[j] *= scale


@register_jitable
def _normalise(x, address, eps, y):
    """y = rmsnorm(x) with the weight that lies at `address`."""
    weight = array_at(address, x.size, x)
    one, total, count = x.dtype.type(1), x.dtype.type(0), x.dtype.type(x.size)
    for j in range(x.size):
        total += x[j] * x[j]
    rstd = one / np.sqrt(total / count + eps)
    for j in range(x.size):
        y[j] = x[j] * rstd * weight[j]


@register_jitable
def _multiply(row, place, kind, outputs, first, last, x, y):
    """y[r] = weight[r] · x + bias[r] for the rows r from `first` to `last` - 1 of the matrix at this place."""
    weights = array_at(row[place], outputs * x.size, kind)
    scales = array_at(row[place + SCALES], outputs, x)
    multiply_rows(weights, scales, first, last, x, y)
    if row[place + BIAS] != 0:
        bias = array_at(row[place + BIAS], outputs, x)
        for r in range(first, last):
            y[r] += bias[r]


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


# ---- the kernels: one for each kind of weights

SIGNATURE = ("(int64, int64, int64[::1], int64, int64, int64, UniTuple(int64, 6), T, {}[::1], int64[:, ::1], "
             "int64[::1], T[:, ::1], T[:, ::1], T[:, :, :, ::1], T[:, :, :, ::1], UniTuple(T[::1], 4), T[::1], "
             "UniTuple(T[::1], 3))")

_float_step = kernel(SIGNATURE.format("T"))(_token_step)
_int8_step = kernel(SIGNATURE.format("int8"))(_token_step)


# ---- an array by its address, because a kernel takes no list of arrays of different shapes

def array_at(address, length, like):
    """The array of `length` numbers of the dtype of `like` that lies at an address."""
    memory = (ctypes.c_char * (length * like.itemsize)).from_address(int(address))
    return np.frombuffer(memory, like.dtype)


@overload(array_at, inline="always")
def _compiled_array_at(address, length, like):
    return lambda address, length, like: carray(_pointer(address, like), (length,))


@intrinsic
def _pointer(typing, address, like):
    pointer = types.CPointer(like.dtype)

    def generate(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(pointer))
    return pointer(address, like), generate
