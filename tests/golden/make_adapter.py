"""Write the folder adapter/: a LoRA adapter as PEFT saves it, and the logits of transformers' model with it.

    PYTHONPATH=tests/support python tests/golden/make_adapter.py

For where PEFT is not installed. The base is a case of llama_cases.py, which both sides draw from the same bits. The
committed files were made by PEFT 0.21, transformers 5.23 and torch 2.13.
"""

from pathlib import Path

import float64_transformers
import llama_cases as cases
import numpy as np
import peft
import torch

CASE = "grouped-tied"
FOLDER = Path(__file__).with_name("adapter")


def write():
    settings = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["v_proj", "q_proj", "up_proj", "down_proj"],
                               task_type="CAUSAL_LM")
    with float64_transformers.in_float64():
        model = peft.get_peft_model(float64_transformers.theirs(CASE), settings, autocast_adapter_dtype=False)
        generator = torch.Generator().manual_seed(0)
        for name, parameter in model.named_parameters():
            if "lora_" in name:         # so few bits that float32 holds them exactly
                parameter.data.copy_(torch.randint(-64, 64, parameter.shape, generator=generator) / 256)
        ids, _ = cases.batch(CASE)
        with torch.no_grad():
            logits = model(torch.from_numpy(ids)).logits.numpy()
    model.to(torch.float32).save_pretrained(FOLDER)
    (FOLDER / "README.md").unlink()
    (FOLDER / "adapter_model.safetensors").chmod(0o644)
    np.save(FOLDER / "logits.npy", logits)


if __name__ == "__main__":
    write()
