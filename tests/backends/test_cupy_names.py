"""Every array function that the operations call exists in CuPy: its names can be asked for where there is no GPU."""

import functools

import numpy as np
import pytest
import strict_device
from on_host import OnHost

from tinyllama.course.cases import cases
from tinyllama.ops import OPS
from tinyllama.ops.quantized_linear import quantize_groups, quantize_rows


def run_everything_on_the_strict_device():
    """Every case, forward and backward, and the six functions that have no derivative."""
    device = strict_device.backend()
    for case in cases():
        OnHost(device).run(case)
    flat = [strict_device.ones(4) for _ in range(4)]
    device.adamw_step(*flat, step=1, learning_rate=0.1, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1,
                      gradient_scale=1 / device.global_norm(flat[1]))
    device.sgd_step(*flat[:3], learning_rate=0.1, momentum=0.9, weight_decay=0.1, l2=0.1)
    logits, uniform = strict_device.asarray(np.eye(3)), strict_device.full((3, 1), 0.5)
    device.sample(logits, uniform=uniform, temperature=0.7, top_k=2, top_p=0.9, min_p=0.1)
    device.sample(logits, uniform=uniform, temperature=0)
    device.quantized_linear(logits, quantize_rows(logits))
    device.dequantize(quantize_groups(strict_device.ones((3, 4)), 4, 2), uniform[:, 0].astype(int))


@pytest.fixture(scope="module")
def names():
    strict_device.used_names().clear()
    run_everything_on_the_strict_device()
    return set(strict_device.used_names())


def test_the_record_is_not_empty(names):
    assert {"exp", "add.at", "take_along_axis", "ndarray.reshape", "sqrt", "argsort", "cumsum", "finfo"} <= names
    assert len(OPS) > 30


def test_cupy_has_every_name_that_was_used(names):
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed.")
    missing = [name for name in sorted(names) if not has(cupy, name)]
    assert not missing, f"not in CuPy {cupy.__version__}: {', '.join(missing)}"


def test_the_strict_device_refuses_only_what_cupy_lacks():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed.")
    assert not [name for name in strict_device.NOT_IN_CUPY if hasattr(cupy, name)]
    assert not hasattr(cupy.ndarray, "__array_namespace__")
    assert not hasattr(cupy.ndarray, "__index__")


def has(module, name):
    try:
        functools.reduce(getattr, name.split("."), module)
    except AttributeError:
        return False
    return True
