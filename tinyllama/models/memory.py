"""How much memory a LLaMA needs, counted from its configuration: to train it, and to write text with it.

What is counted is what the layers keep from the forward to the backward pass on the compiled backend, whose attention
keeps one number a query and not the probabilities. A test holds the counts against the peak that is measured.
"""

from tinyllama.models.llama import LOGITS_BYTES


def kv_cache_bytes(config, batch_size, context, itemsize=4):
    """Keys and values of every layer for so many rows of `context` tokens: 2 · layers · B · KV · T · D numbers."""
    numbers = 2 * config.num_hidden_layers * batch_size * config.num_key_value_heads * context * config.head_dim
    return numbers * itemsize


def activation_bytes(config, batch_size, context, *, workers=1, itemsize=4):
    """The most that a training step holds beside weights, gradients and moments.

    With N = B · T tokens: what all layers keep, the logits of a piece of the batch and their gradient, and beside them
    either the gradient of the head, or what the backward pass of one layer needs, whichever is more. The gradient of a
    matrix is made once for each worker before it is added.
    """
    tokens, hidden = batch_size * context, config.hidden_size
    kept = tokens * (config.num_hidden_layers * _kept_by_a_layer(config, itemsize) + 2 * hidden + 1)    # and norm, head
    logits = 2 * min(tokens * config.vocab_size, workers * LOGITS_BYTES // itemsize)
    at_the_head = tokens * hidden + workers * config.vocab_size * hidden
    return itemsize * (kept + logits + max(at_the_head, _backward_of_a_layer(config, tokens, workers)))


def _kept_by_a_layer(config, itemsize):
    """Numbers for each token that a block keeps until its backward pass."""
    hidden, inner, (queries, keys) = config.hidden_size, config.intermediate_size, _widths(config)
    norms = 2 * (hidden + 1)                                # their inputs, and a number a row
    projections = 2 * hidden + queries                      # the inputs of q, k and v, of the MLP and of o
    attention = queries + 2 * keys + config.num_attention_heads + 2 * 8 // itemsize     # q, k, v, log-sum-exp, 2 int64
    mlp = (3 if config.mlp == "swiglu" else 2) * inner      # gate and up, and the input of down
    qk_norm = (queries + keys) + config.num_attention_heads + config.num_key_value_heads if config.qk_norm else 0
    return norms + projections + attention + mlp + qk_norm


def _backward_of_a_layer(config, tokens, workers):
    """Numbers that the backward pass of a block holds at its peak, without the cache."""
    hidden, inner, (queries, keys) = config.hidden_size, config.intermediate_size, _widths(config)
    up = (2 if config.mlp == "swiglu" else 1) * inner
    passed_on = 2 * tokens * hidden                         # the gradient of the last block's result, and of this one's
    return passed_on + max(
        tokens * (inner + up),                                                  # of the activation
        tokens * (up + hidden) + workers * up * hidden,                         # of gate and up: x and the weights
        tokens * (3 * queries + 4 * keys))                                      # of attention, before and after merging


def _widths(config):
    """The features of all query heads, and of all key heads."""
    return config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
