"""The network of a LLaMA: which layers there are, how they follow one another, and the same backwards."""

import math

from tinyllama.nn import (
    MLP,
    Attention,
    Block,
    Dropout,
    Embedding,
    Layer,
    LayerNorm,
    LearnedPositions,
    Linear,
    RMSNorm,
    RotaryTable,
    SinusoidalPositions,
    SwiGLU,
)

NORMS = {"rmsnorm": RMSNorm, "layernorm": LayerNorm}
FIRST_POSITIONS = 1024      # whose rotation is computed with the model, so that short texts upload nothing but ids


class LlamaNetwork(Layer):
    """Embedding, positions, blocks, norm and head, each as the configuration says.

    The parameters have the names that Hugging Face gives them. Layers that share weights have the same names, and a
    tied head is a `Linear` on the embedding's table.
    """

    def __init__(self, config, *, backend, dtype):
        self.config = config
        like_embedding = {"std": config.embedding_initializer_range}
        self.embed_tokens = Embedding("model.embed_tokens", config.vocab_size, config.hidden_size, **like_embedding)
        self.embed_positions, self.rotary = None, None
        if config.positions == "learned":
            self.embed_positions = LearnedPositions("model.embed_positions", config.max_position_embeddings,
                                                    config.hidden_size, **like_embedding)
        elif config.positions == "sinusoidal":
            self.embed_positions = SinusoidalPositions(config.max_position_embeddings, config.hidden_size,
                                                       **like_embedding)
        elif config.positions == "rope":
            self.rotary = RotaryTable(config.max_position_embeddings, config.head_dim, theta=config.rope_theta,
                                      scaling=config.rope_scaling, backend=backend, dtype=dtype)
        self.embed_dropout = Dropout(config.dropout, "embedding")
        self.layers = [self._block(f"model.layers.{i % config.num_unique_layers}")
                       for i in range(config.num_hidden_layers)]
        self.norm = NORMS[config.norm]("model.norm", config.hidden_size, eps=config.rms_norm_eps)
        self.lm_head = Linear("model.embed_tokens" if config.tie_word_embeddings else "lm_head",
                              config.hidden_size, config.vocab_size, std=config.initializer_range)

    def bind(self, parameters, backend):
        """Give all layers the weights and the operations to use, and compute the rotation of the first positions."""
        super().bind(parameters, backend)
        if self.rotary is not None:
            self.rotary.tables(FIRST_POSITIONS)

    def _block(self, name):
        config, std = self.config, self.config.initializer_range
        residual_std = std / math.sqrt(2 * config.num_hidden_layers)    # 2 · layers terms are added up on the way
        attention = Attention(f"{name}.self_attn", config.hidden_size, heads=config.num_attention_heads,
                              key_value_heads=config.num_key_value_heads, head_dim=config.head_dim,
                              window=config.sliding_window, bias=config.attention_bias,
                              output_bias=config.attention_output_bias, qk_norm=config.qk_norm,
                              norm_eps=config.rms_norm_eps, std=std, output_std=residual_std)
        sizes = (f"{name}.mlp", config.hidden_size, config.intermediate_size)
        settings = {"bias": config.mlp_bias, "std": std, "down_std": residual_std}
        mlp = SwiGLU(*sizes, **settings) if config.mlp == "swiglu" else MLP(*sizes, activation=config.mlp, **settings)
        norm, eps = NORMS[config.norm], config.rms_norm_eps
        return Block(
            attention_norm=norm(f"{name}.input_layernorm", config.hidden_size, eps=eps),
            attention=attention, attention_dropout=Dropout(config.dropout, "attention"),
            mlp_norm=norm(f"{name}.post_attention_layernorm", config.hidden_size, eps=eps),
            mlp=mlp, mlp_dropout=Dropout(config.dropout, "mlp"))

    def forward(self, ids, positions, context, *, keep_caches=True):
        """The hidden state after the last norm.

        ids: (B, T) -> (B, T, hidden), cache. positions: a slice, or an array (B, T). Without `keep_caches` there can be
        no backward, and memory is needed for two blocks at a time, however many there are.
        """
        x, embed_cache = self.embed_tokens.forward(ids)                         # (B, T) -> (B, T, hidden)
        position_cache = None
        if self.embed_positions is not None:
            x, position_cache = self.embed_positions.forward(x, self._as_array(positions, ids.shape))
        x, dropout_cache = self.embed_dropout.forward(x, context)
        if self.rotary is not None:
            cos, sin = self.rotary.at(positions, None if context.kv_cache is None else context.kv_cache.capacity)
            context = context._replace(cos=cos, sin=sin)
        layer_caches = []
        for i, layer in enumerate(self.layers):
            x, layer_cache = layer.forward(x, context._replace(layer=i))
            if keep_caches:
                layer_caches.append(layer_cache)
        x, norm_cache = self.norm.forward(x)
        return x, (embed_cache, position_cache, dropout_cache, layer_caches, norm_cache)

    def backward(self, dx, cache, grads):
        """dx: (B, T, hidden), the gradient of the hidden state; adds all gradients below it into `grads`."""
        embed_cache, position_cache, dropout_cache, layer_caches, norm_cache = cache
        dx = self.norm.backward(dx, norm_cache, grads)
        for layer in reversed(self.layers):
            dx = layer.backward(dx, layer_caches.pop(), grads)      # popped, so that its memory is free for the rest
        dx = self.embed_dropout.backward(dx, dropout_cache, grads)
        if self.embed_positions is not None:
            dx = self.embed_positions.backward(dx, position_cache, grads)
        self.embed_tokens.backward(dx, embed_cache, grads)

    def _as_array(self, positions, shape):
        xp = self.ops.xp
        if isinstance(positions, slice):
            positions = xp.arange(positions.start, positions.stop)              # (T,)
        return xp.broadcast_to(positions, shape)                                # (B, T)
