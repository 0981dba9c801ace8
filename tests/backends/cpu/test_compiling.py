"""The kernels as plain Python, where their cache is kept and when it is stale, and wrong versions of them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from kernel_cases import ops_with_a_kernel
from rounding import check_against_readable

pytest.importorskip("numba", reason="Numba is not installed.")

import numba
from numba.core import caching

import tinyllama
from tinyllama.backends import load_backend
from tinyllama.backends.cpu import compiling, exponential, maximum, sampling
from tinyllama.course.cases import Case, cases
from tinyllama.course.mistakes import mistakes
from tinyllama.ops import OPS

BACKEND = load_backend("numba")
KERNEL_OPS = ops_with_a_kernel(BACKEND)


@pytest.fixture
def plain_python(monkeypatch):
    """The kernels without a compiler: what they say in Python, which coverage can see."""
    for compiled, _ in compiling._kernels:
        function = getattr(compiled, "py_func", compiled)
        monkeypatch.setitem(function.__globals__, function.__name__, function)
    with np.errstate(over="ignore"):            # whole numbers of 32 bits wrap around, as they should
        yield


@pytest.mark.parametrize("case", [case for op in KERNEL_OPS for case in cases(op)],
                         ids=lambda case: f"{case.op}, {case.label}")
def test_without_a_compiler_they_give_the_same(plain_python, case):
    check_against_readable(BACKEND, case)


def test_without_a_compiler_the_others_give_the_same(plain_python, rng):
    gradient = rng.normal(size=9)
    assert BACKEND.global_norm(gradient) == pytest.approx(OPS["global_norm"](gradient), rel=1e-14)
    for name, settings in (("sgd_step", {"momentum": 0.9, "learning_rate": 0.1, "weight_decay": 0.2}),
                           ("adamw_step", {"step": 1, "betas": (0.9, 0.95), "eps": 1e-8, "learning_rate": 0.1,
                                           "weight_decay": 0.2})):
        arrays = [gradient.copy(), gradient[::-1].copy(), np.zeros(9), np.zeros(9)][:3 + (name == "adamw_step")]
        expected = [array.copy() for array in arrays]
        getattr(BACKEND, name)(*arrays, **settings)
        OPS[name](*expected, **settings)
        np.testing.assert_allclose(arrays, expected, rtol=1e-13)
    logits, uniform = 3 * rng.normal(size=(9, 50)), rng.random((9, 1))
    for settings in ({}, {"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.1}):
        np.testing.assert_array_equal(BACKEND.sample(logits, uniform=uniform, **settings),
                                      OPS["sample"](logits, uniform=uniform, **settings))
    assert sampling._comes_before(np.array([1.0, 1.0]), 0, 1)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_fast_exponential(compiled):
    """Within 3e-7, whatever the number: exactly 0 far below, infinite far above, and NaN for NaN."""
    def each(x, y):
        for i in range(x.size):
            y[i] = exponential.fast_exponential(x[i])

    run = numba.njit(fastmath=compiling.FASTMATH, error_model="numpy")(each) if compiled else each
    x = np.concatenate([np.linspace(-87.3, 88.3, 2000 if not compiled else 2_000_000),
                        [-np.inf, -1e30, -1e8, -1e4, -200, 0, 200, 1e4, 1e8, 1e30, np.inf, np.nan]]).astype(np.float32)
    y = np.empty_like(x)
    with np.errstate(all="ignore"):
        run(x, y)
        expected = np.exp(x.astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(y, expected, rtol=3e-7)


@pytest.mark.parametrize("size", [1, 3, 17, 257])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_largest_of_a_row(rng, size, dtype):
    run = numba.njit(lambda row: maximum.largest(row))
    for row in (rng.normal(size=size), -rng.random(size), np.full(size, -np.inf), np.zeros(size),
                np.array([1, np.inf, -np.inf]), np.array([-0.0, -1]), np.array([1e-45, 0, -1e-45])):
        row = row.astype(dtype)
        assert run(row) == np.max(row)
        if dtype == np.float32:
            assert maximum.largest_by_bits(row) == np.max(row)


# --- the cache on disk ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="Nothing is compiled.")
def test_where_no_cache_can_be_written_the_kernels_work_all_the_same(monkeypatch):
    """Neither beside the source nor in the user's folder: what Numba says then is an error, here it is not."""
    def double(x, y):
        for i in range(x.size):
            y[i] = x[i] + x[i]

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    monkeypatch.setattr(compiling, "_kernels", [])
    with pytest.raises(RuntimeError, match="cannot cache function"):
        numba.njit(cache=True)(double)
    compiled = compiling.kernel("(T[::1], T[::1])")(double)
    for dtype in (np.float32, np.float64):
        assert list(compiling.compile_kernels(dtype)) == [(0, 1), (1, 1)]
        y = np.zeros(3, dtype)
        compiled(np.ones(3, dtype), y)
        assert y.tolist() == [2, 2, 2]
    assert len(compiled.signatures) == 2


HELPER = """
from numba.extending import register_jitable

@register_jitable
def grown(x):
    return x + x
"""
KERNEL = """
from tinyllama.backends.cpu.compiling import kernel
from tinyllama.backends.cpu.helper_of_toy import grown

@kernel("(T[::1],)")
def grow(x):
    for i in range(x.size):
        x[i] = grown(x[i])
"""
PROGRAM = """
import numpy as np
from tinyllama.backends.cpu.toy import grow
x = np.ones(3, np.float32)
grow(x)
print(x[0], "read" if grow.stats.cache_hits else "compiled")
"""


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="Nothing is compiled.")
def test_after_an_edit_of_any_file_of_the_folder_a_kernel_is_compiled_anew_in_place_of_the_old_one(tmp_path):
    shutil.copytree(Path(tinyllama.__file__).parent, tmp_path / "tinyllama",
                    ignore=shutil.ignore_patterns("__pycache__"))
    folder, cache = tmp_path / "tinyllama" / "backends" / "cpu", tmp_path / "cache"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(cache),
                   "PYTHONDONTWRITEBYTECODE": "1"}

    def run(helper, kernel):
        (folder / "helper_of_toy.py").write_text(helper, encoding="utf-8")
        (folder / "toy.py").write_text(kernel, encoding="utf-8")
        result = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, capture_output=True,
                                encoding="utf-8", check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip(), sorted(path.name for path in cache.rglob("*") if path.is_file())

    first, files = run(HELPER, KERNEL)
    assert (first, len(files)) == ("2.0 compiled", 2)           # the code, and the index
    assert run(HELPER, KERNEL) == ("2.0 read", files)
    tripled = HELPER.replace("x + x", "x + x + x")
    assert run(tripled, KERNEL) == ("3.0 compiled", files)
    assert run(tripled, "\n" + KERNEL) == ("3.0 compiled", files)


# --- wrong versions ---------------------------------------------------------------------------------------------------


def rejected(backend, op):
    """Whether some case of the operation shows that the backend's pair is wrong."""
    for case in cases(op):
        try:
            check_against_readable(backend, case)
        except AssertionError:
            return True
    return False


@pytest.mark.parametrize("mistake", [mistake for op in KERNEL_OPS for mistake in mistakes(op)],
                         ids=lambda mistake: f"{mistake.function_name}-{mistake.function.__name__}")
def test_every_mistake_of_the_bank_is_found(mistake):
    op = mistake.function_name.removesuffix("_forward").removesuffix("_backward")
    readable = {f"{op}_{direction}": OPS[f"{op}_{direction}"] for direction in ("forward", "backward")}
    assert rejected(BACKEND.with_ops(**readable | {mistake.function_name: mistake.function}), op)
    assert not rejected(BACKEND.with_ops(**readable), op)


@pytest.fixture
def modules():
    return {function.__module__.rpartition(".")[2]: __import__(function.__module__, fromlist=["_"])
            for function in (getattr(compiled, "py_func", compiled) for compiled, _ in compiling._kernels)}


def test_a_kernel_that_overwrites_the_gradient_of_the_weight_is_found(monkeypatch, modules):
    def of_the_last_row(dy, x, weight, rstd, dx, dweight):
        right(dy, x, weight, rstd, dx, dweight)
        dweight[:] = dy[-1] * x[-1] * rstd[-1]

    right = modules["rmsnorm"]._backward
    monkeypatch.setattr(modules["rmsnorm"], "_backward", of_the_last_row)
    assert rejected(BACKEND, "rmsnorm")


def test_a_mean_that_forgets_to_divide_is_found(monkeypatch, modules):
    def without_the_count(x, weight, eps, y, rstd):
        rstd[:] = 1 / np.sqrt(np.sum(x * x, axis=1) + eps)
        y[:] = x * rstd[:, None] * weight

    monkeypatch.setattr(modules["rmsnorm"], "_forward", without_the_count)
    assert rejected(BACKEND, "rmsnorm")


def test_a_softmax_that_does_not_subtract_the_largest_is_found(monkeypatch, modules):
    def without_the_largest(x, y):
        with np.errstate(all="ignore"):
            y[:] = np.exp(x)
            y /= y.sum(axis=1, keepdims=True)

    monkeypatch.setattr(modules["softmax"], "_forward", without_the_largest)
    assert rejected(BACKEND, "softmax")             # in float32, on the row far from zero


def test_a_result_that_is_a_little_rough_is_found(monkeypatch, modules):
    """The bounds are no wide net: a hundred times the last digit is seen."""
    def roughly(x, weight, eps, y, rstd):
        right(x, weight, eps, y, rstd)
        y *= 1 + 100 * np.finfo(y.dtype).eps

    right = modules["rmsnorm"]._forward
    monkeypatch.setattr(modules["rmsnorm"], "_forward", roughly)
    rng = np.random.default_rng(0)
    case = Case("rmsnorm", "rough", (rng.normal(size=(5, 64)), rng.normal(size=64)), {})
    with pytest.raises(AssertionError, match="times the bound"):
        check_against_readable(BACKEND, case)
