"""A GPT-2 in PyTorch, and how to train it or the LLaMA of `tinyllama/bench/torch_llama.py`: our opponents.

Both are made from a `tinyllama.LlamaConfig`; model(ids, targets) is the mean cross-entropy in nats per target.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from tinyllama.training.schedules import learning_rate_at


class GPT(nn.Module):
    """The model of nanoGPT's recipe: GPT-2 without biases and dropout, its head tied to its embedding."""

    def __init__(self, config):
        super().__init__()
        width, layers = config.hidden_size, config.num_hidden_layers
        self.embed_tokens = nn.Embedding(config.vocab_size, width)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, width)
        self.layers = nn.ModuleList(GPTBlock(width, config.num_attention_heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        self.lm_head = linear(width, config.vocab_size)
        self.lm_head.weight = self.embed_tokens.weight
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                adds_to_residual = name.endswith(("output.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if adds_to_residual else 0.02)

    def forward(self, ids, targets):
        x = self.embed_tokens(ids) + self.embed_positions.weight[:ids.shape[1]]     # (B, T) -> (B, T, hidden)
        for layer in self.layers:
            x = layer(x)
        logits = self.lm_head(self.norm(x))                                         # (B, T, vocab_size)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())             # ()


class GPTBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.head_dim = width // heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.output = linear(width, 3 * width), linear(width, width)
        self.up, self.down = linear(width, 4 * width), linear(4 * width, width)

    def forward(self, x):
        qkv = self.qkv(self.attention_norm(x)).chunk(3, dim=-1)                     # (B, T, hidden) each
        x = x + self.output(attend(*(split_heads(part, self.head_dim) for part in qkv)))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


def split_heads(x, head_dim):
    """(B, T, H·D) -> (B, H, T, D)."""
    return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)


def attend(q, k, v):
    """Causal attention with the heads side by side again.   q, k, v: (B, H, T, D)  ->  (B, T, H·D)."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


def train(model, batches, settings):
    """Train in place with the recipe of `TrainingSettings` and fused AdamW; yields the loss after every update."""
    parameters = list(model.parameters())
    groups = [{"params": [p for p in parameters if p.ndim == 2], "weight_decay": settings.weight_decay},
              {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=settings.betas, eps=1e-8, fused=True)
    for step, (ids, targets) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(
                step, schedule=settings.schedule, peak=settings.learning_rate, warmup_steps=settings.warmup_steps,
                total_steps=settings.steps, final_fraction=settings.final_fraction)
        loss = model(ids, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


@torch.no_grad()
def evaluate(model, batches):
    """The mean loss of batches of one size, in nats per target."""
    return sum(model(ids, targets).item() for ids, targets in batches) / len(batches)
