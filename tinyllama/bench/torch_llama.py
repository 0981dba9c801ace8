"""The same LLaMA in PyTorch, as PyTorch is meant to be used: fused attention, autograd, its fused AdamW.

PyTorch is imported inside the functions: only who compares with it needs it.
"""

from tinyllama.bench.steps import BETAS, LEARNING_RATE, MAX_GRAD_NORM, WEIGHT_DECAY, random_batch
from tinyllama.ops.rope import rope_frequencies


def torch_step(size, *, compiled):
    """step() of the same model, batch and settings as `steps.our_step`, eager or by `torch.compile`.

    The first step of a compiled model compiles it, and raises what PyTorch raises where there is no C++ compiler.
    """
    import torch
    torch.manual_seed(0)
    model = torch_llama(size.config)
    matrices = [weight for weight in model.parameters() if weight.ndim == 2]
    vectors = [weight for weight in model.parameters() if weight.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}],
        lr=LEARNING_RATE, betas=BETAS, fused=True)
    loss_of = torch.compile(model) if compiled else model
    ids, targets = (torch.tensor(array) for array in random_batch(size))

    def step():
        loss = loss_of(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def torch_llama(config):
    """A module: model(ids, targets) is the mean cross-entropy. Its state is that of `tinyllama.Llama`, name by name.

    For the configurations of `sizes`: RMSNorm, SwiGLU, rotary positions, tied embeddings, no biases, as many key heads
    as query heads.
    """
    import torch
    from torch import nn
    from torch.nn import functional

    block = _block_class()
    frequencies = torch.tensor(rope_frequencies(config.head_dim, theta=config.rope_theta))
    angles = torch.outer(torch.arange(config.max_position_embeddings), frequencies)         # (P, D/2)

    class TorchLlama(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = nn.ModuleDict({
                "embed_tokens": nn.Embedding(config.vocab_size, config.hidden_size),
                "layers": nn.ModuleList(block(config) for _ in range(config.num_hidden_layers)),
                "norm": nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)})
            nn.init.normal_(self.model["embed_tokens"].weight, std=config.initializer_range)
            self.register_buffer("cos", angles.cos().float(), persistent=False)
            self.register_buffer("sin", angles.sin().float(), persistent=False)

        def forward(self, ids, targets):
            x = self.model["embed_tokens"](ids)                                 # (B, T) -> (B, T, hidden)
            for layer in self.model["layers"]:
                x = layer(x, self.cos[:ids.shape[1]], self.sin[:ids.shape[1]])
            logits = functional.linear(self.model["norm"](x), self.model["embed_tokens"].weight)        # (B, T, V)
            return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    return TorchLlama()


def _block_class():
    import torch
    from torch import nn
    from torch.nn import functional

    def linear(inputs, outputs):
        return nn.Linear(inputs, outputs, bias=False)

    def rotated(x, cos, sin):
        a, b = x.chunk(2, dim=-1)                                               # (B, H, T, D/2) each
        return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)        # (B, H, T, D)

    class Block(nn.Module):
        def __init__(self, config):
            super().__init__()
            hidden, inner, self.head_dim = config.hidden_size, config.intermediate_size, config.head_dim
            self.input_layernorm = nn.RMSNorm(hidden, eps=config.rms_norm_eps)
            self.self_attn = nn.ModuleDict({f"{name}_proj": linear(hidden, hidden) for name in "qkvo"})
            self.post_attention_layernorm = nn.RMSNorm(hidden, eps=config.rms_norm_eps)
            self.mlp = nn.ModuleDict({"gate_proj": linear(hidden, inner), "up_proj": linear(hidden, inner),
                                      "down_proj": linear(inner, hidden)})

        def forward(self, x, cos, sin):
            h = self.input_layernorm(x)                                         # (B, T, hidden)
            q, k, v = (self.self_attn[f"{name}_proj"](h).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
                       for name in "qkv")                                       # (B, H, T, D) each
            h = functional.scaled_dot_product_attention(rotated(q, cos, sin), rotated(k, cos, sin), v, is_causal=True)
            x = x + self.self_attn["o_proj"](h.transpose(1, 2).flatten(2))      # (B, H, T, D) -> (B, T, hidden)
            h = self.post_attention_layernorm(x)
            return x + self.mlp["down_proj"](functional.silu(self.mlp["gate_proj"](h)) * self.mlp["up_proj"](h))

    return Block
