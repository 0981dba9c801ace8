"""Drawing a token without sorting the vocabulary. Settings: `tinyllama/ops/sampling.py`; derived in chapter 13.

Each filter cuts off the end of the list of tokens, the most probable first, and the draw cuts it behind the token that
it picks. A cut is found by walking down that list, adding up weights exp((z - largest) / temperature), which need no
division by their sum. The walk is quick because the tokens are thrown into buckets by their logit first: it takes
whole buckets at a time, and puts only the tokens of the bucket in order in which it ends.
"""

import numpy as np
from numba.extending import register_jitable

from tinyllama.backends.cpu.compiling import as_matrix, contiguous, kernel, require_float
from tinyllama.backends.cpu.exponential import exponential
from tinyllama.ops import sampling as readable
from tinyllama.ops.array import require_shape

BUCKETS = 1024      # at most: hundreds of tokens each, for a vocabulary of 128,000
SPAN = 100          # (largest - z) / temperature in all buckets but the last, whose tokens weigh less than exp(-100)
BLOCK_TOKENS = 64   # tokens looked at together in the search for those of one bucket


def sample(logits, *, uniform, temperature=1.0, top_k=None, top_p=None, min_p=None):
    """Draw one token a row from softmax(logits / temperature), after leaving out the unlikely ones.

    logits: (B, V), uniform: (B, 1) random numbers in 0 .. 1  ->  ids: (B,) integers.

    The token is that of the readable version, but where the rounding of a sum of probabilities decides, and where
    logits are equal: such tokens follow one another in the order of their ids. Rows whose largest logit is infinite or
    NaN are left to the readable version. Raises ValueError where uniform is not (B, 1).
    """
    require_float(logits, "logits")
    if temperature < 1e-6:
        return np.argmax(logits, axis=-1)                                               # (B, V) -> (B,)
    z = as_matrix(logits)
    require_shape(uniform, (len(z), 1), "uniform", "one number a row")
    largest = np.max(z, axis=-1)                                                        # (B, V) -> (B,)
    usual = np.isfinite(largest)                                                        # (B,)
    if not usual.all():
        ids = readable.sample(z, uniform=uniform, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        if usual.any():
            ids[usual] = sample(z[usual], uniform=uniform[usual], temperature=temperature, top_k=top_k, top_p=top_p,
                                min_p=min_p)
        return ids
    ids = np.empty(len(z), np.int64)
    _sample(z, largest, np.min(z, axis=-1), contiguous(uniform, np.float64).reshape(-1), z.dtype.type(temperature),
            z.shape[1] if top_k is None else top_k, np.inf if top_p is None else top_p, min_p or 0.0, ids)
    return ids


@kernel("(T[:, ::1], T[::1], T[::1], float64[::1], T, int64, float64, float64, int64[::1])")
def _sample(z, largest, smallest, uniform, temperature, top_k, top_p, min_p, ids):
    rows, width = z.shape
    buckets = min(width, BUCKETS)
    weight, bucket, heap = np.empty(width, z.dtype), np.empty(width, np.int32), np.empty(width, np.int64)
    bucket_size, bucket_weight = np.empty(buckets, np.int64), np.empty(buckets, np.float64)
    for i in range(rows):
        span = min(largest[i] - smallest[i], z.dtype.type(SPAN) * temperature)
        per_logit = z.dtype.type(buckets - 1) / span if span > 0 else z.dtype.type(0)
        _fill_buckets(z[i], largest[i], temperature, per_logit, weight, bucket, bucket_size, bucket_weight)
        tokens = z[i], weight, bucket, bucket_size, bucket_weight, heap
        count, total, _ = _walk(tokens, top_k, np.inf, 0.0, buckets)
        count, total, _ = _walk(tokens, count, top_p * total, 0.0, buckets)
        if min_p > 0:
            # The bucket of the logit whose weight is min_p, less one for the rounding.
            whole = int(min(-np.log(min_p) * temperature * per_logit, np.float64(buckets))) - 1
            count, total, _ = _walk(tokens, count, np.inf, min_p, whole)
        # The token picked is the first whose end lies beyond the point: the next one's beginning does, too.
        point = min(np.nextafter(uniform[i] * total, np.inf), total)
        _, _, ids[i] = _walk(tokens, count, point, 0.0, buckets)


@register_jitable
def _fill_buckets(z, largest, temperature, per_logit, weight, bucket, bucket_size, bucket_weight):
    """The weight and the bucket of every token; size and weight of every bucket, the most probable tokens in the first.

    A smaller logit never comes into an earlier bucket, whatever the rounding.
    """
    last = z.dtype.type(bucket_size.size - 1)
    bucket_size[:] = 0
    bucket_weight[:] = 0
    for j in range(z.size):
        below = largest - z[j]
        weight[j] = exponential(-below / temperature)
        place = below * per_logit
        bucket[j] = np.int32(place if place < last else last)
    for j in range(z.size):
        bucket_size[bucket[j]] += 1
        bucket_weight[bucket[j]] += weight[j]


@register_jitable
def _walk(tokens, most, limit, least, whole):
    """Take tokens, the most probable first, until there are `most`, or they weigh `limit`, or the next one weighs less
    than `least`, which none does in the buckets before `whole`. The first token is always taken.

    Returns how many were taken, their weight, and the last whose weight is above 0.
    """
    z, weight, bucket, bucket_size, bucket_weight, heap = tokens
    count, total, token = 0, 0.0, 0
    for b in range(bucket_size.size):
        end = total + bucket_weight[b]
        if count + bucket_size[b] > most or end >= limit or b >= whole:
            size = _gather(bucket, np.int32(b), heap)
            for parent in range(size // 2 - 1, -1, -1):
                _sift_down(z, heap, parent, size)
            while size > 0:
                first = heap[0]
                if count > 0 and (count >= most or total >= limit or weight[first] < least):
                    return count, total, token
                count += 1
                total += weight[first]
                if weight[first] > 0:
                    token = first
                size -= 1
                heap[0] = heap[size]
                _sift_down(z, heap, 0, size)
        else:
            count += bucket_size[b]
        total = end                 # the same sum, whether the bucket was taken whole or token by token
    return count, total, token


@register_jitable
def _gather(bucket, b, heap):
    """Write the tokens of bucket b to `heap`; returns how many there are."""
    size = 0
    for start in range(0, bucket.size, BLOCK_TOKENS):
        block = bucket[start:start + BLOCK_TOKENS]
        found = np.int32(0)
        for j in range(block.size):         # without a branch, so that the compiler can do many at a time
            found |= np.int32(block[j] == b)
        if found:
            for j in range(block.size):
                if block[j] == b:
                    heap[size] = start + j
                    size += 1
    return size


@register_jitable
def _sift_down(z, heap, parent, size):
    """Let one token sink until none of its two children comes before it; the rest of the heap is in order."""
    sinking = heap[parent]
    while 2 * parent + 1 < size:
        child = 2 * parent + 1
        if child + 1 < size and _comes_before(z, heap[child + 1], heap[child]):
            child += 1
        if not _comes_before(z, heap[child], sinking):
            break
        heap[parent] = heap[child]
        parent = child
    heap[parent] = sinking


@register_jitable
def _comes_before(z, a, b):
    return z[a] > z[b] or (z[a] == z[b] and a < b)
