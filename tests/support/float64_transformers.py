"""transformers' LLaMA, run as it is or in float64 throughout.

A float64 model of transformers still computes RMSNorm and RoPE in float32, because its source says `torch.float32` and
`torch.float` there. `in_float64` hands that source a `torch` in which both words mean float64: the formulas stay its
own, only their precision changes, and what remains between two implementations is rounding at 1e-15.
"""

import contextlib
from unittest import mock

import llama_cases as cases
import torch
from transformers import LlamaConfig, LlamaForCausalLM, modeling_rope_utils
from transformers.models.llama import modeling_llama


class _TorchWithoutFloat32:
    def __getattr__(self, name):
        return torch.float64 if name in ("float", "float32") else getattr(torch, name)


@contextlib.contextmanager
def in_float64():
    """Within this context, models that are made and run compute everything in float64."""
    torch64 = _TorchWithoutFloat32()
    with mock.patch.object(modeling_llama, "torch", torch64), mock.patch.object(modeling_rope_utils, "torch", torch64):
        yield


def theirs(case, dtype="float64"):
    """transformers' model of a case, with our weights. Made within `in_float64`, its frequencies are float64 too."""
    weights = cases.ours(case).parameters
    model = LlamaForCausalLM(LlamaConfig(**cases.config(case).to_dict(), attn_implementation="sdpa"))
    model = model.to(getattr(torch, dtype)).eval()
    parameters = dict(model.named_parameters())
    assert set(parameters) == set(weights)
    for name, parameter in parameters.items():
        parameter.data.copy_(torch.from_numpy(weights[name]))       # raises where the shapes differ
    return model


def run(case, dtype="float64"):
    """{"logits", "loss", parameter name: gradient} of transformers' model, as NumPy arrays."""
    model, (ids, targets) = theirs(case, dtype), cases.batch(case)
    logits = model(torch.from_numpy(ids)).logits
    # Not the model's own loss, which shifts the targets and is computed in float32.
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten())
    loss.backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    return {"logits": logits.detach().numpy(), "loss": loss.detach().numpy(), **gradients}
