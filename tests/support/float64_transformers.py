"""transformers' LLaMA and its relatives, run as they are or in float64 throughout.

A float64 model of transformers still computes RMSNorm and RoPE in float32, because its source says `torch.float32` and
`torch.float` there. `in_float64` hands that source a `torch` in which both words mean float64: the formulas stay its
own, only their precision changes, and what remains between two implementations is rounding at 1e-15.
"""

import contextlib
from unittest import mock

import families
import llama_cases as cases
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, modeling_rope_utils
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.phi3 import modeling_phi3
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3

from tinyllama.formats.architectures import write_config

MODULES = (modeling_rope_utils, modeling_llama, modeling_mistral, modeling_phi3, modeling_qwen2, modeling_qwen3)


class _TorchWithoutFloat32:
    def __getattr__(self, name):
        return torch.float64 if name in ("float", "float32") else getattr(torch, name)


@contextlib.contextmanager
def in_float64():
    """Within this context, models that are made and run compute everything in float64."""
    with contextlib.ExitStack() as stack:
        for module in MODULES:
            stack.enter_context(mock.patch.object(module, "torch", _TorchWithoutFloat32()))
        yield


def theirs(case, dtype="float64"):
    """transformers' model of a case, with our weights. Made within `in_float64`, its frequencies are float64 too."""
    weights = cases.ours(case).parameters
    model = LlamaForCausalLM(LlamaConfig(**write_config(cases.config(case)), attn_implementation="sdpa"))
    model = model.to(getattr(torch, dtype)).eval()
    parameters = dict(model.named_parameters())
    assert set(parameters) == set(weights)
    for name, parameter in parameters.items():
        parameter.data.copy_(torch.from_numpy(weights[name]))       # raises where the shapes differ
    return model


def run(case, dtype="float64"):
    """{"logits", "loss", parameter name: gradient} of transformers' model, as NumPy arrays."""
    return _run(theirs(case, dtype), *cases.batch(case))


def new_family(case):
    """transformers' model of a case of `families`, in float64 and with its weights."""
    kind, settings = families.CASES[case]
    config = AutoConfig.for_model(kind, **families.SIZES | settings, attn_implementation="sdpa")
    model = AutoModelForCausalLM.from_config(config).to(torch.float64).eval()
    for name, parameter in model.named_parameters():
        parameter.data.copy_(torch.from_numpy(families.weights(case, name, parameter.shape)))
    return model


def run_family(model, case):
    """{"logits", "loss", parameter name: gradient} of a model of `new_family`, as NumPy arrays."""
    return _run(model, *families.batch(case))


def _run(model, ids, targets):
    logits = model(torch.from_numpy(ids)).logits
    # Not the model's own loss, which shifts the targets and is computed in float32.
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten())
    loss.backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    return {"logits": logits.detach().numpy(), "loss": loss.detach().numpy(), **gradients}
