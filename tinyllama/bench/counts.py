"""How much an operation has to do: floating-point operations, and bytes that it must read and write.

One function for each operation of a LLaMA's training step. An addition, a multiplication, a division, a comparison, an
exp, a log and a square root count one each; what is done once a row, and not for each element, is left out. Every array
that an operation is given is read once, and every result written once: what an implementation computes again, or keeps
for its backward, is its own affair and not counted. All gradients are wanted.
"""

from typing import NamedTuple


class Work(NamedTuple):
    """Of one call."""

    flop: int
    bytes: int


def linear(x, weight, bias=None):
    """y = x @ weightᵀ: N · I · O multiplications and additions; backward two products of that size.

    Backward reads dy, x and the weight, and writes dx and dweight. A bias is not counted.
    """
    outputs, inputs = weight.shape
    product = 2 * x.size * outputs
    y = x.size // inputs * outputs
    return (Work(product, x.itemsize * (x.size + weight.size + y)),
            Work(2 * product, x.itemsize * (y + 2 * x.size + 2 * weight.size)))


def attention(q, k, v, *, causal=False, **mask):
    """q @ kᵀ, a softmax and a product with v, over the pairs of a query and a key that it sees.

    Causal, query i of T sees i + 1 keys: T (T + 1) / 2 pairs, about half of T². Forward: 2 D + 2 Dv for the products of
    a pair, and 6 for scale, maximum, difference, exp, sum and division. Backward: four products (dv, dP, dq, dk), twice
    as much, and 5 for scale · P · (dP - Σ P · dP). No other mask is known here.
    """
    (batch, heads, queries, width), keys = q.shape, k.shape[2]
    pairs = batch * heads * (queries * keys - causal * (queries * (queries - 1) // 2))
    products = 2 * (width + v.shape[3])
    y = q.size // width * v.shape[3]
    return (Work(pairs * (products + 6), q.itemsize * (q.size + k.size + v.size + y)),
            Work(pairs * (2 * products + 5), q.itemsize * (y + 2 * (q.size + k.size + v.size))))


def rmsnorm(x, weight, **settings):
    """Forward: x², its sum, · rstd, · weight. Backward: n, dweight 2, dn, mean(dn · n) 2, dx 3."""
    return (Work(4 * x.size, x.itemsize * (2 * x.size + weight.size)),
            Work(9 * x.size, x.itemsize * (3 * x.size + 2 * weight.size)))


def rope(x, *, cos, sin, **settings):
    """For each pair of features 4 multiplications and 2 additions, either way."""
    work = Work(3 * x.size, x.itemsize * (2 * x.size + cos.size + sin.size))
    return work, work


def swiglu(x):
    """Forward, for each of the I results: a sigmoid (4) and 2 products. Backward: a sigmoid, dup 2, dgate 6."""
    y = x.size // 2
    return Work(6 * y, x.itemsize * (x.size + y)), Work(12 * y, x.itemsize * (y + 2 * x.size))


def cross_entropy(logits, *, targets, **settings):
    """Forward, for each logit: maximum, difference, exp, sum. Backward: difference, exp, scale. No label smoothing."""
    return (Work(4 * logits.size, logits.nbytes + targets.nbytes),
            Work(3 * logits.size, 2 * logits.nbytes + targets.nbytes))


def embedding(ids, weight):
    """Forward reads and writes N rows. Backward adds N rows to the gradient of the whole table, which is written."""
    rows = ids.size * weight.shape[1]
    return (Work(0, ids.nbytes + weight.itemsize * 2 * rows),
            Work(rows, ids.nbytes + weight.itemsize * (rows + weight.size)))


def adamw_step(weight, gradient, m, v, **settings):
    """For each weight: the gradient's scale 1, m 3, v 4, decay 1, and rate · m / (sqrt(v · scale) + eps) with its
    difference 6. Reads four arrays and writes three.
    """
    return Work(15 * weight.size, 7 * weight.nbytes)


def global_norm(gradient):
    """A multiplication and an addition for each number."""
    return Work(2 * gradient.size, gradient.nbytes)


def product_parameters(config):
    """How many weights of a LLaMA take part in matrix products.

    All matrices of the blocks and the head; an embedding that is not also the head is looked up, not multiplied.
    """
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    attention = config.hidden_size * config.head_dim * (2 * heads + 2 * key_heads)
    mlp = 3 * config.hidden_size * config.intermediate_size
    return config.num_hidden_layers * (attention + mlp) + config.vocab_size * config.hidden_size


def model_flop(config, batch_size, context):
    """What a training step has to multiply and add, whoever computes it:

        6 · (weights in products) · (tokens)  +  12 · layers · batch · heads · head_dim · T (T + 1) / 2

    A product costs 2 a weight and token forward, and twice that backward. Causal attention has two products forward,
    and four backward, over the T (T + 1) / 2 pairs that are visible: half of T². Nothing else is counted, neither what
    is computed twice nor softmax, norms and optimizer.
    """
    pairs = config.num_hidden_layers * batch_size * config.num_attention_heads * context * (context + 1) // 2
    return 6 * product_parameters(config) * batch_size * context + 12 * pairs * config.head_dim


def weight_bytes_per_token(model):
    """The bytes of weights that decoding one token must read: all, but of an embedding that is not the head one row."""
    weights = sum(weight.nbytes for weight in model.parameters.values())
    if model.config.tie_word_embeddings:
        return weights
    table = model.parameters["model.embed_tokens.weight"]
    return weights - table.nbytes + table.nbytes // table.shape[0]
