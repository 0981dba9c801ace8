"""The bar under which kernels are compiled."""

import io
import types

from rich.console import Console

from tinyllama.backends import compilation
from tinyllama.backends.compilation import compile_with_bar


def backend(steps):
    def compile_kernels(dtype):
        assert dtype == "float32"
        yield from steps
    return types.SimpleNamespace(compile_kernels=compile_kernels)


def shown(steps, monkeypatch, patience, terminal=True):
    monkeypatch.setattr(compilation, "PATIENCE", patience)
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    compile_with_bar(backend(steps), "float32", console)
    return console.file.getvalue()


def test_what_takes_long_is_shown(monkeypatch):
    text = shown([(0, 2), (1, 2), (2, 2)], monkeypatch, patience=0)
    assert "Compiling kernels, once on this machine" in text
    assert "0/2" in text or "1/2" in text or "2/2" in text


def test_what_is_read_from_the_disk_is_not(monkeypatch):
    assert shown([(0, 2), (1, 2), (2, 2)], monkeypatch, patience=1000) == ""


def test_in_a_file_nothing_is_shown(monkeypatch):
    assert shown([(0, 2), (1, 2), (2, 2)], monkeypatch, patience=0, terminal=False) == ""


def test_without_kernels_nothing_is_shown(monkeypatch):
    assert shown([], monkeypatch, patience=0) == ""
