"""Self-attention with its four projections, rotation, and the cache of keys and values."""

from tinyllama.nn.layer import Layer
from tinyllama.nn.linear import Linear
from tinyllama.ops.array import array_namespace


class Attention(Layer):
    """Causal self-attention of H query heads over KV key and value heads, each of D = `head_dim` features.

    The parameters are NAME.q_proj, k_proj, v_proj (one product) and o_proj. With rotation tables in the context, q and
    k are rotated in the half-split pairing. `window`: how many tokens back a token sees; None is all.
    """

    def __init__(self, name, hidden_size, *, heads, key_value_heads, head_dim, window=None, bias=False, std=0.02,
                 output_std=0.02):
        self.heads, self.key_value_heads, self.head_dim, self.window = heads, key_value_heads, head_dim, window
        parts = {f"{name}.q_proj": heads * head_dim, f"{name}.k_proj": key_value_heads * head_dim,
                 f"{name}.v_proj": key_value_heads * head_dim}
        self.qkv = Linear(f"{name}.qkv_proj", hidden_size, sum(parts.values()), bias=bias, std=std, parts=parts)
        self.output = Linear(f"{name}.o_proj", heads * head_dim, hidden_size, bias=bias, std=output_std)

    def forward(self, x, context):
        """x: (B, T, hidden)  ->  y: (B, T, hidden), cache."""
        qkv, qkv_cache = self.qkv.forward(x)                                    # (B, T, (H + 2 KV) D)
        qkv = self._split_heads(qkv)                                            # (B, H + 2 KV, T, D)
        rotated_heads = self.heads + self.key_value_heads
        q, k, v = qkv[:, :self.heads], qkv[:, self.heads:rotated_heads], qkv[:, rotated_heads:]
        q_cache = k_cache = None
        if context.cos is not None:
            q, q_cache = self.ops.rope_forward(q, cos=context.cos, sin=context.sin)         # (B, H, T, D)
            k, k_cache = self.ops.rope_forward(k, cos=context.cos, sin=context.sin)         # (B, KV, T, D)
        if context.kv_cache is not None:
            k, v = context.kv_cache.write(context.layer, k, v)                  # (B, KV, past + T, D)
        y, attention_cache = self.ops.attention_forward(
            q, k, v, causal=True, window=self.window, query_start=context.query_start, key_length=context.key_length,
            query_document=context.documents, key_document=context.documents)   # (B, H, T, D)
        y, output_cache = self.output.forward(self._merge_heads(y))             # (B, T, H D) -> (B, T, hidden)
        return y, (qkv_cache, q_cache, k_cache, attention_cache, output_cache)

    def backward(self, dy, cache, grads):
        """dy: (B, T, hidden)  ->  dx: (B, T, hidden). Not for a pass with a cache of keys and values."""
        qkv_cache, q_cache, k_cache, attention_cache, output_cache = cache
        xp = array_namespace(dy)
        dy = self.output.backward(dy, output_cache, grads)                      # (B, T, hidden) -> (B, T, H D)
        dy = self._split_heads(dy)                                              # (B, H, T, D)
        dq, dk, dv = self.ops.attention_backward(dy, attention_cache)           # (B, H, T, D), (B, KV, T, D) twice
        if q_cache is not None:
            dq, dk = self.ops.rope_backward(dq, q_cache), self.ops.rope_backward(dk, k_cache)
        dqkv = self._merge_heads(xp.concatenate([dq, dk, dv], axis=1))          # (B, T, (H + 2 KV) D)
        return self.qkv.backward(dqkv, qkv_cache, grads)                        # (B, T, hidden)

    def _split_heads(self, x):
        """(B, T, heads · D) -> (B, heads, T, D)."""
        batch, length, _ = x.shape
        return x.reshape(batch, length, -1, self.head_dim).transpose(0, 2, 1, 3)

    def _merge_heads(self, x):
        """(B, heads, T, D) -> (B, T, heads · D)."""
        batch, heads, length, _ = x.shape
        return x.transpose(0, 2, 1, 3).reshape(batch, length, heads * self.head_dim)
