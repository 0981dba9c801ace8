"""Every operation once more, by PyTorch's own functions where it has them: an answer by somebody else."""

import numpy as np
import torch
import torch.nn.functional as F
from brute_force import visible_keys

from tinyllama.ops.counter_random import random_uint32


def torch_answer(case):
    """What PyTorch says about a case of `tinyllama.course.cases`, in float64: {"y", "dy", "gradient 0", ...}.

    The gradients are numbered like the arguments; an argument without one has no entry.
    """
    arguments = [None if array is None else torch.tensor(array) for array in case.arrays]
    for argument in arguments:
        if argument is not None and argument.is_floating_point():
            argument.requires_grad_()
    settings = {name: torch.tensor(value) if isinstance(value, np.ndarray) else value
                for name, value in case.settings.items()}
    y = globals()[f"_{case.op}"](*arguments, **settings)
    dy = cotangent(y.shape)
    y.backward(torch.tensor(dy))
    gradients = {f"gradient {i}": argument.grad.numpy() for i, argument in enumerate(arguments)
                 if argument is not None and argument.requires_grad}
    return {"y": y.detach().numpy(), "dy": dy, **gradients}


def cotangent(shape):
    """The gradient that arrives at the result: random, with the seed 2024."""
    return np.asarray(np.random.default_rng(2024).normal(size=tuple(shape)))


def _embedding(ids, weight):
    return F.embedding(ids, weight)


def _linear(x, weight, bias):
    return F.linear(x, weight, bias)


def _softmax(x):
    return F.softmax(x, dim=-1)


def _log_softmax(x):
    return F.log_softmax(x, dim=-1)


def _cross_entropy(logits, *, targets, ignore_index=-100, label_smoothing=0.0, divisor=None):
    total = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=ignore_index,
                            label_smoothing=label_smoothing, reduction="sum")
    return total / ((targets != ignore_index).sum() if divisor is None else divisor)


def _mse(x, *, targets, divisor=None):
    return F.mse_loss(x, targets, reduction="sum") / (divisor or targets.numel())


def _sigmoid(x):
    return torch.sigmoid(x)


def _binary_cross_entropy(logits, *, targets, divisor=None):
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / (divisor or targets.numel())


def _relu(x):
    return F.relu(x)


def _gelu(x):
    return F.gelu(x, approximate="tanh")


def _silu(x):
    return F.silu(x)


def _swiglu(x):
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


def _rmsnorm(x, weight, *, eps=1e-5):
    return F.rms_norm(x, weight.shape, weight, eps)


def _layernorm(x, weight, bias, *, eps=1e-5):
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def _rope(x, *, cos, sin, interleaved=False):
    """A pair of features is a complex number, and a rotation is a product with another."""
    pairs = x.unflatten(-1, (-1, 2)) if interleaved else x.unflatten(-1, (2, -1)).transpose(-1, -2)
    rotated = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * torch.complex(cos, sin))
    return (rotated if interleaved else rotated.transpose(-1, -2)).flatten(-2)


def _attention(q, k, v, *, scale=None, tile=None, **mask):
    shape = (q.shape[0], q.shape[2], k.shape[2])
    mask = {name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in mask.items()}
    visible = torch.tensor(visible_keys(shape, **mask))[:, None]            # (B, 1, Tq, Tk)
    sees_a_key = visible.any(dim=-1, keepdim=True)                          # (B, 1, Tq, 1)
    # A softmax over no keys is 0/0: let such a query see every key, and multiply what it finds by zero.
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=visible | ~sees_a_key, scale=scale, enable_gqa=True)
    return y * sees_a_key


_attention_tiled = _attention


def _dropout(x, *, rate, key, first_row=0):
    """PyTorch draws other random numbers: the mask is taken from ours as data."""
    kept = random_uint32(np, tuple(x.shape), key=key, first_row=first_row) >= int(rate * 2**32)
    return x * torch.tensor(kept / (1 - rate))
