"""`tinyllama bench` as a user types it, at a toy size."""

import functools
import json
import os

import matplotlib.image
import pytest
from command_line import assert_is_a_mistake, command_line
from toy_sizes import TOY, finite_numbers

from tinyllama.backends import compilation
from tinyllama.bench import comparison, decoding, growth, limits, sizes, training


@pytest.fixture
def tinyllama(monkeypatch, capsys, tmp_path):
    """`tinyllama("bench", "--size", "toy")` in the directory of the test; nothing takes long."""
    monkeypatch.setitem(sizes.SIZES, "M", TOY)
    monkeypatch.setitem(sizes.SIZES, "toy", TOY)
    monkeypatch.setattr(limits, "measure_limits", functools.partial(
        limits.measure_limits, product_sizes=(32,), array_bytes=2**16, rounds=1))
    monkeypatch.setattr(training, "SECONDS", 0)
    monkeypatch.setattr(decoding, "SECONDS", 0.05)
    monkeypatch.setattr(decoding, "read_rate", lambda *_, **__: 1e9)
    monkeypatch.setattr(comparison, "torch_is_installed", lambda: False)
    monkeypatch.setattr(comparison, "TURN_SECONDS", 0)
    monkeypatch.setattr(growth, "sweeps", lambda: {"batch_size": [
        (rows, TOY._replace(batch_size=rows), None) for rows in (1, 2)]})
    return command_line(monkeypatch, capsys, tmp_path)


def assert_is_a_figure(path):
    pixels = matplotlib.image.imread(path)                  # (height, width, 3 or 4), 0 .. 1
    for corner in (pixels[0, 0], pixels[0, -1], pixels[-1, 0], pixels[-1, -1]):
        assert corner.tolist() == [1.0] * len(corner)       # white, and opaque
    assert (pixels[..., :3] < 0.5).any()


def test_the_limits_then_a_step_then_a_token(tinyllama, backend):
    result = tinyllama("bench", "--backend", backend.name)
    assert (result.code, result.err) == (0, "")
    for text in ("GFLOP/s in float32, on all cores", "GB/s, on all cores", "linear_backward", "the rest", "the step",
                 "100.0%", "tokens/s", "of the rate of matrix products", "T (T + 1) / 2", "writing a token", "int8",
                 f"backend {backend.name}"):
        assert text in result.out
    assert max(map(len, result.out.splitlines())) <= 120
    assert "…" not in result.out            # no cell is cut off


@pytest.mark.parametrize("way", [[], ["--compare"], ["--growth"]], ids=str)
def test_the_kernels_are_compiled_under_a_bar_before_anything_is_measured(way, tinyllama, backend, monkeypatch):
    compiled = []
    monkeypatch.setattr(compilation, "compile_with_bar", lambda *given: compiled.append(given[:2]))
    for module, name in ((limits, "measure_limits"), (comparison, "compare"), (growth, "measure_growth")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("not yet") if not compiled else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tinyllama("bench", *way, "--backend", backend.name)
    assert compiled == [(backend, "float32")]


def test_the_figures_as_json_and_in_a_directory(tinyllama, tmp_path):
    result = tinyllama("bench", "--size", "toy", "--size", "toy", "--json", "--out", tmp_path / "new" / "folder")
    assert (result.code, result.err) == (0, "")
    facts = json.loads(result.out)
    assert list(facts) == ["machine", "limits", "training", "decoding"]
    assert {"/machine/cores", "/limits/gflops", "/limits/gb_per_second", "/training/step_ms", "/training/operations/ms",
            "/decoding/tokens_per_second"} <= set(finite_numbers(facts))
    assert [(row["size"], row["weights"]) for row in facts["decoding"]] == [("toy", "float32"), ("toy", "int8")] * 2
    assert json.loads((tmp_path / "new/folder/bench.json").read_text(encoding="utf-8")) == facts
    assert_is_a_figure(tmp_path / "new/folder/roofline-toy.png")


def test_one_size_has_one_roofline(tinyllama, tmp_path):
    result = tinyllama("bench", "--size", "toy", "--backend", "numpy", "--workers", "1", "--out", ".")
    assert (result.code, result.err) == (0, "")
    assert "Saved bench.json, roofline.png." in result.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "roofline.png"]
    assert json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))["training"][0]["workers"] == 1


def test_comparing_without_pytorch_says_what_to_install(tinyllama):
    result = tinyllama("bench", "--compare", "--backend", "numpy")
    assert (result.code, result.err) == (0, "")
    assert result.out.count("PyTorch is not installed") == 1
    assert "pip install torch" in result.out
    assert "ours" in result.out


def test_growth_is_a_table_and_a_figure(tinyllama, tmp_path):
    result = tinyllama("bench", "--growth", "--backend", "numpy", "--out", "here")
    assert (result.code, result.err) == (0, "")
    assert "as batch_size grows" in result.out
    facts = json.loads((tmp_path / "here/bench.json").read_text(encoding="utf-8"))
    assert list(facts) == ["machine", "growth"]
    assert [point["value"] for point in facts["growth"]["batch_size"]] == [1, 2]
    assert_is_a_figure(tmp_path / "here/growth.png")


@pytest.mark.parametrize(("arguments", "message"), [
    (["--size", "XL"], "size: expected one of 'nano', 'char', 'M', 'L'"),
    (["--workers", "0"], "workers: expected at least 1, got 0"),
    (["--workers", "many"], "Invalid value for '--workers'"),
    (["--backend", "abacus"], "backend: expected one of 'numpy'"),
    (["--growth", "--size", "M"], "growth: expected no --size beside it"),
    (["--out", ""], "expected a path, got an empty text"),
    (["--out", "file"], "file: File exists"),
    (["--out", "file/below"], "Not a directory"),
])
def test_a_mistake_is_one_line_before_anything_is_measured(arguments, message, tinyllama, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(limits, "measure_limits", lambda *_: pytest.fail("it began to measure"))
    result = tinyllama("bench", *arguments)
    assert_is_a_mistake(result, message)
    assert result.out == ""


def test_a_directory_that_cannot_be_written_is_found_out_before_the_measuring(tinyllama, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "measure_limits", lambda *_: pytest.fail("it began to measure"))
    (tmp_path / "locked").mkdir(mode=0o500)
    if os.access(tmp_path / "locked", os.W_OK):
        pytest.skip("This user may write anywhere.")
    assert_is_a_mistake(tinyllama("bench", "--out", "locked"), "Permission denied")
