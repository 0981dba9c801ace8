"""The rules of the house: which way imports point, what importing costs, and what nobody may import."""

import ast
import importlib.util
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tinyllama

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tinyllama"
LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"


def lint_imports(folder):
    """Run import-linter on the package in `folder`, with the configuration that lies there."""
    if importlib.util.find_spec("importlinter") is None:
        pytest.skip("import-linter is not installed.")
    return subprocess.run([sys.executable, "-c", LINT], cwd=folder, capture_output=True, text=True, encoding="utf-8",
                          check=False)


def test_imports_point_one_way():
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " kept, 0 broken" in result.stdout


@pytest.mark.parametrize(("module", "line", "is_allowed"), [
    ("ops/softmax.py", "", True),
    ("nn/block.py", "from house.ops import softmax", True),
    ("ops/softmax.py", "import house.nn", False),
    ("backends/fast.py", "def load():\n    from house.models import llama", False),        # also inside a function
    ("tokenizers/bpe.py", "from house.models import llama", False),
])
def test_an_import_that_points_the_other_way_would_be_found(tmp_path, module, line, is_allowed):
    """The contracts of this project, over a package of the same rooms with one line in it."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    renamed = json.loads(json.dumps(contracts).replace("tinyllama", "house"))
    rooms = [*renamed["contracts"][0]["layers"],
             *(name.removeprefix("house.") for name in renamed["contracts"][1]["source_modules"])]
    for room in rooms:
        (tmp_path / "house" / room).mkdir(parents=True)
        (tmp_path / "house" / room / "__init__.py").touch()
    for extra in ("ops/softmax.py", "models/llama.py"):
        (tmp_path / "house" / extra).touch()
    (tmp_path / "house" / "__init__.py").touch()
    (tmp_path / "house" / module).write_text(line, encoding="utf-8")
    (tmp_path / ".importlinter").write_text(as_ini(renamed), encoding="utf-8")
    result = lint_imports(tmp_path)
    assert ("BROKEN" in result.stdout) == (not is_allowed), result.stdout + result.stderr
    assert (result.returncode == 0) == is_allowed


def as_ini(config):
    """import-linter's own format: lists are indented lines."""
    def lines(options):
        for key, value in options.items():
            yield f"{key} = " + ("".join(f"\n    {item}" for item in value) if isinstance(value, list) else str(value))

    contracts = config.pop("contracts")
    sections = {"importlinter": config} | {f"importlinter:contract:{i}": c for i, c in enumerate(contracts)}
    return "\n".join(f"[{name}]\n" + "\n".join(lines(options)) for name, options in sections.items())


def test_importing_the_package_loads_nothing_and_starts_nothing():
    code = ("import json, sys, threading\n"
            "before = set(sys.modules)\n"
            "import tinyllama\n"
            "print(json.dumps([sorted(set(sys.modules) - before), threading.active_count(), dir(tinyllama)]))\n")
    # -S leaves out site-packages, whose start-up files may have loaded half of the library already
    result = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded, threads, names = json.loads(result.stdout)
    assert "tinyllama" in loaded
    ours_or_foreign = [name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names]
    assert ours_or_foreign == ["tinyllama"]
    assert threads == 1
    assert names == tinyllama.__all__


@pytest.mark.parametrize("name", tinyllama.__all__)
def test_every_public_name_is_there(name):
    assert getattr(tinyllama, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'tinyllama' has no attribute 'no_such_name'"):
        _ = tinyllama.no_such_name


def imports_of(source):
    """The top-level packages that a module names in an import statement, wherever in it the statement stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "tinyllama" if node.level else node.module.partition(".")[0]


def test_the_search_for_imports_finds_them():
    source = "import numpy as np\ndef f():\n    from torch.nn import Linear\n    import a.b, c\nfrom . import x\n'jax'"
    assert set(imports_of(source)) == {"numpy", "torch", "a", "c", "tinyllama"}


def modules(folder):
    found = sorted(folder.rglob("*.py"))
    assert found, f"no modules in {folder}"
    return {path.relative_to(ROOT).as_posix(): set(imports_of(path.read_text(encoding="utf-8"))) for path in found}


def test_nothing_imports_the_libraries_that_this_one_is_compared_with():
    """But for the benchmarks, inside their functions: `tinyllama bench` works without them."""
    for path, imported in modules(PACKAGE).items():
        if not path.startswith("tinyllama/bench/"):
            assert not imported & {"torch", "transformers", "jax"}, path


def test_without_the_libraries_that_it_is_compared_with_the_benchmark_can_be_imported():
    blocked = "import sys; sys.modules.update(torch=None, transformers=None); "
    imports = "; ".join(f"import tinyllama.bench.{path.stem}" for path in sorted((PACKAGE / "bench").glob("[a-z]*.py")))
    subprocess.run([sys.executable, "-c", blocked + imports], check=True, cwd=ROOT)


def test_the_operations_name_no_array_library():
    """They take it from their arguments: the same lines run on NumPy, CuPy and the strict device of the tests."""
    for path, imported in modules(PACKAGE / "ops").items():
        assert imported <= {"tinyllama", "math", "operator", "sys", "typing"}, path
