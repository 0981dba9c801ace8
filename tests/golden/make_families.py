"""Write the golden files of the families of Hugging Face, for where transformers is absent.

    PYTHONPATH=tests/support python tests/golden/make_families.py

families.json: what transformers writes as config.json, and the names and shapes of its tensors. families.npz: the
logits and the loss of transformers in float64 throughout, and of every gradient, under our names, what
`families.summary` keeps. The weights are in neither: both sides draw them from the same bits, see families.py. The
committed ones were made by transformers 5.23 and torch 2.13.
"""

import json

import families
import float64_transformers
import numpy as np

from tinyllama.formats.architectures import read_config

UNIMPORTANT = ("transformers_version", "dtype")


def main():
    descriptions, arrays = {}, {}
    for case in families.CASES:
        with float64_transformers.in_float64():
            model = float64_transformers.new_family(case)
            settings = {name: value for name, value in model.config.to_diff_dict().items() if name not in UNIMPORTANT}
            settings["architectures"] = [type(model).__name__]
            shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
            descriptions[case] = {"config": settings, "shapes": shapes}
            results = families.split_fused(float64_transformers.run_family(model, case), read_config(settings))
        arrays.update({f"{case}/{name}": value for name, value in families.summary(case, results).items()})
    lines = ",\n".join(f"{json.dumps(case)}: {json.dumps(description)}" for case, description in descriptions.items())
    families.DESCRIPTIONS.write_text("{\n" + lines + "\n}\n", encoding="utf-8")
    np.savez_compressed(families.GOLDEN, **arrays)
    for file in (families.DESCRIPTIONS, families.GOLDEN):
        print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
