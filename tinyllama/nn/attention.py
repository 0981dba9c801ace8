"""Self-attention with its four projections, norms of q and k, rotation, and the cache of keys and values."""

from tinyllama.nn.layer import Layer
from tinyllama.nn.linear import Linear
from tinyllama.nn.norm import RMSNorm
from tinyllama.ops.array import array_namespace


class Attention(Layer):
    """Causal self-attention of H query heads over KV key and value heads, each of D = `head_dim` features.

    The parameters are NAME.q_proj, k_proj, v_proj (one product) and o_proj. With rotation tables in the context, q and
    k are rotated in the half-split pairing. `window`: how many tokens back a token sees; None is all. `bias`: of q, k
    and v; `output_bias`: of o; None is as `bias`.

    qk_norm: whether each head of q and of k goes through an RMSNorm of its own D features before it is rotated, with
    the parameters NAME.q_norm.weight and NAME.k_norm.weight (D,), which all heads share. It bounds the scores, whatever
    the size of the weights. Source: Henry et al. 2020, here as Qwen3 has it (2025).
    """

    def __init__(self, name, hidden_size, *, heads, key_value_heads, head_dim, window=None, bias=False,
                 output_bias=None, qk_norm=False, norm_eps=1e-5, std=0.02, output_std=0.02):
        self.heads, self.key_value_heads, self.head_dim, self.window = heads, key_value_heads, head_dim, window
        parts = {f"{name}.q_proj": heads * head_dim, f"{name}.k_proj": key_value_heads * head_dim,
                 f"{name}.v_proj": key_value_heads * head_dim}
        self.qkv = Linear(f"{name}.qkv_proj", hidden_size, sum(parts.values()), bias=bias, std=std, parts=parts)
        self.output = Linear(f"{name}.o_proj", heads * head_dim, hidden_size,
                             bias=bias if output_bias is None else output_bias, std=output_std)
        self.q_norm = RMSNorm(f"{name}.q_norm", head_dim, eps=norm_eps) if qk_norm else None
        self.k_norm = RMSNorm(f"{name}.k_norm", head_dim, eps=norm_eps) if qk_norm else None

    def forward(self, x, context):
        """x: (B, T, hidden)  ->  y: (B, T, hidden), cache."""
        qkv, qkv_cache = self.qkv.forward(x)                                    # (B, T, (H + 2 KV) D)
        qkv = self._split_heads(qkv)                                            # (B, H + 2 KV, T, D)
        rotated_heads = self.heads + self.key_value_heads
        q, k, v = qkv[:, :self.heads], qkv[:, self.heads:rotated_heads], qkv[:, rotated_heads:]
        q_norm_cache = k_norm_cache = q_cache = k_cache = None
        if self.q_norm is not None:
            q, q_norm_cache = self.q_norm.forward(q)                            # (B, H, T, D)
            k, k_norm_cache = self.k_norm.forward(k)                            # (B, KV, T, D)
        if context.cos is not None:
            q, q_cache = self.ops.rope_forward(q, cos=context.cos, sin=context.sin)         # (B, H, T, D)
            k, k_cache = self.ops.rope_forward(k, cos=context.cos, sin=context.sin)         # (B, KV, T, D)
        if context.kv_cache is not None:
            k, v = context.kv_cache.write(context.layer, k, v)                  # (B, KV, past + T, D)
        y, attention_cache = self.ops.attention_forward(
            q, k, v, causal=True, window=self.window, query_start=context.query_start, key_length=context.key_length,
            query_document=context.documents, key_document=context.documents)   # (B, H, T, D)
        y, output_cache = self.output.forward(self._merge_heads(y))             # (B, T, H D) -> (B, T, hidden)
        return y, (qkv_cache, q_norm_cache, k_norm_cache, q_cache, k_cache, attention_cache, output_cache)

    def backward(self, dy, cache, grads):
        """dy: (B, T, hidden)  ->  dx: (B, T, hidden). Not for a pass with a cache of keys and values."""
        qkv_cache, q_norm_cache, k_norm_cache, q_cache, k_cache, attention_cache, output_cache = cache
        xp = array_namespace(dy)
        dy = self.output.backward(dy, output_cache, grads)                      # (B, T, hidden) -> (B, T, H D)
        dy = self._split_heads(dy)                                              # (B, H, T, D)
        dq, dk, dv = self.ops.attention_backward(dy, attention_cache)           # (B, H, T, D), (B, KV, T, D) twice
        if q_cache is not None:
            dq, dk = self.ops.rope_backward(dq, q_cache), self.ops.rope_backward(dk, k_cache)
        if self.q_norm is not None:
            dq, dk = self.q_norm.backward(dq, q_norm_cache, grads), self.k_norm.backward(dk, k_norm_cache, grads)
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
