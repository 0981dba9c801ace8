"""Builds the chapters: from each source the reader's notebook, executed, and the page of its solutions.

    python chapters/build.py                build every chapter
    python chapters/build.py 07             build chapter 07
    python chapters/build.py --check        execute every chapter twice, as the reader gets it and as it is solved, and
                                            compare the committed notebooks with their sources; writes nothing

A source is a Python file in jupytext's percent format, whose cells all have a `slug`. It holds the solutions, between
`### BEGIN SOLUTION` and `### END SOLUTION`, with nbgrader's cell metadata. See README.md beside this file.
"""

import argparse
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
import numpy as np
from ipykernel.kernelspec import make_ipkernel_cmd
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from tinyllama.backends.threads import cores

CHAPTERS = Path(__file__).parent
SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
SOLUTION = re.compile(r"^( *)### BEGIN SOLUTION\n(.*?)^ *### END SOLUTION(?:\n|\Z)", re.DOTALL | re.MULTILINE)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
RUNNING_TIME = "{running time}"     # in a source: where the builder writes what it measured
CELL_LIMIT = 300                    # seconds after which a cell is stopped
EXPECTED_SECONDS = 90               # a chapter that takes longer is reported, not refused: other work slows a machine
LARGEST_NOTEBOOK = 1_000_000        # bytes
METADATA = {"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python"}}


class ChapterError(ValueError):
    """A source that breaks the rules, or a chapter that does not run to its end."""


# ---- from a source to its editions

def read_source(path):
    """The source as a notebook whose cell ids are the slugs, solutions and all.

    Raises ChapterError for a cell whose slug is missing, badly formed or used before.
    """
    source = jupytext.read(path, fmt="py:percent")
    cells, seen = [], set()
    for number, cell in enumerate(source.cells, 1):
        slug = cell.metadata.get("slug")
        where = f"{path.name}: cell {number} ({_first_line(cell)!r})"
        if slug is None:
            raise ChapterError(f'{where} has no slug; write one behind its marker, as in # %% slug="a-short-name"')
        if not SLUG.fullmatch(str(slug)) or len(slug) > 64:
            raise ChapterError(f"{where}: expected a slug of at most 64 lower-case letters, digits and hyphens, "
                               f"got {slug!r}")
        if slug in seen:
            raise ChapterError(f"{where}: the slug {slug!r} belongs to an earlier cell; each needs one of its own")
        seen.add(slug)
        make = nbformat.v4.new_markdown_cell if cell.cell_type == "markdown" else nbformat.v4.new_code_cell
        kept = {name: cell.metadata[name] for name in ("tags", "nbgrader") if name in cell.metadata}
        cells.append(make(cell.source, id=slug, metadata=kept))
    return nbformat.v4.new_notebook(cells=cells, metadata=METADATA)


def readers_edition(source):
    """The notebook without solutions: stubs in their place, and no cells that only explain them."""
    return _with_cells(source, [_replace_source(cell, SOLUTION.sub(_stub, cell.source)) for cell in source.cells
                                if not _only_explains_a_solution(cell)])


def solved_edition(source):
    """The notebook with the solutions; each feedback cell, one expression, asserts that the feedback is good."""
    def solved(cell):
        if is_feedback(cell):
            return f"feedback = {cell.source}\nassert feedback.is_right, feedback"
        return SOLUTION.sub(lambda found: found[2], cell.source)

    return _with_cells(source, [_replace_source(cell, solved(cell)) for cell in source.cells])


def solutions_page(source, notebook_name):
    """The solutions as Markdown, each below the heading of its exercise."""
    title = _first_line(source.cells[0]).lstrip("# ")
    parts = [f"# Solutions to {title}", f"Back to [the chapter](../{notebook_name}). Try first: each exercise has "
             "hints, and its check tells what is not right yet."]
    heading, written = None, None
    for cell in source.cells:
        found = re.search(r"^#+ (Exercise .*)$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else None
        heading = found[1] if found else heading
        if not (_only_explains_a_solution(cell) or SOLUTION.search(cell.source)):
            continue
        if heading != written:
            parts.append(f"## {heading}")
            written = heading
        replacing = [body for indent, body in SOLUTION.findall(cell.source) if not indent]      # of what stands above
        text = "".join(replacing) or SOLUTION.sub(lambda match: match[2], cell.source)
        parts.append(text if cell.cell_type == "markdown" else f"```python\n{text.strip()}\n```")
    return "\n\n".join(parts) + "\n"


def is_feedback(cell):
    """Whether the cell checks an answer: a test cell, in nbgrader's metadata."""
    return cell.metadata.get("nbgrader", {}).get("grade", False)


def _only_explains_a_solution(cell):
    return "solution" in cell.metadata.get("tags", [])


def _stub(found):
    indent = found[1]
    if not indent:      # outside a function an exception would stop the notebook
        return "# Your answer goes here.\n"
    return f"{indent}# Your answer goes here.\n{indent}raise NotImplementedError\n"


def _replace_source(cell, text):
    copy = nbformat.from_dict(cell)
    copy.source = text.rstrip("\n")
    return copy


def _with_cells(notebook, cells):
    return nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata)


def _first_line(cell):
    return cell.source.strip().partition("\n")[0]


# ---- executing

class ThisInterpreter(KernelSpecManager):
    """Whatever kernels are registered on this machine, the one that runs has the interpreter that runs this file."""

    def get_kernel_spec(self, kernel_name):
        """The kernel of this interpreter, by any name."""
        command = make_ipkernel_cmd(extra_arguments=["--log-level=ERROR"])
        return KernelSpec(argv=command, display_name=kernel_name, language="python")


def execute(notebook):
    """Run every cell in a clean kernel, in an empty directory: (the notebook with outputs, the seconds it took).

    Raises ChapterError naming the cell that failed.
    """
    executed = nbformat.from_dict(notebook)
    folder = tempfile.mkdtemp()
    client = NotebookClient(executed, km=AsyncKernelManager(kernel_spec_manager=ThisInterpreter()), timeout=CELL_LIMIT,
                            record_timing=False, coalesce_streams=True, resources={"metadata": {"path": folder}})
    started = time.perf_counter()
    try:
        client.execute(cleanup_kc=True)         # it leaves a manager that it did not make running otherwise
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise ChapterError(f"a cell failed:\n{COLOUR.sub('', str(error))}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)       # Windows may hold on to it a little longer
    return executed, time.perf_counter() - started


def executed_edition(source):
    """The reader's notebook with its outputs and, in its head, the time that it took."""
    executed, seconds = execute(readers_edition(source))
    measured = (f"{seconds:.0f} s, measured with Python {sys.version_info.major}.{sys.version_info.minor} and "
                f"NumPy {np.__version__} on {cores()} CPU cores")
    for cell in executed.cells:
        cell.source = cell.source.replace(RUNNING_TIME, measured)
    executed.metadata = nbformat.from_dict(METADATA)    # the kernel's own names its exact version
    return executed, seconds


# ---- comparing

def differences(committed, source):
    """How the cells of a committed notebook differ from those that its source gives: a list of sentences.

    Identifiers and sources are compared, never outputs or timings.
    """
    expected = {cell.id: cell for cell in readers_edition(source).cells}
    found = {cell.id: cell for cell in committed.cells}
    sentences = [f"the cell {name!r} of the source is missing" for name in expected.keys() - found.keys()]
    sentences += [f"there is a cell {name!r} that is not in the source" for name in found.keys() - expected.keys()]
    if not sentences and [cell.id for cell in committed.cells] != list(expected):
        sentences.append("the cells are in another order, or one is there twice")
    for name in expected.keys() & found.keys():
        pattern = re.escape(expected[name].source).replace(re.escape(RUNNING_TIME), "[^\n]+")
        same_kind = found[name].cell_type == expected[name].cell_type
        if not (same_kind and re.fullmatch(pattern, found[name].source)):
            sentences.append(f"the cell {name!r} is not that of the source")
    return sorted(sentences)


def write_notebook(notebook):
    """The text of a notebook file."""
    nbformat.validate(notebook)
    return nbformat.writes(notebook, version=4) + "\n"


def paths_of(source_path):
    """Where the notebook and the solutions of a source go."""
    notebook = CHAPTERS / f"{source_path.stem}.ipynb"
    return notebook, CHAPTERS / "solutions" / f"{source_path.stem.partition('_')[0]}.md"


def problems_of_files(source_path):
    """What is wrong with the committed files of a source: a list of sentences. Executes nothing."""
    source = read_source(source_path)
    notebook_path, solutions_path = paths_of(source_path)
    for path in (notebook_path, solutions_path):
        if not path.exists():
            return [f"{path.name} is missing"]
    problems = differences(nbformat.read(notebook_path, as_version=4), source)
    if solutions_path.read_text(encoding="utf-8") != solutions_page(source, notebook_path.name):
        problems.append(f"{solutions_path.name} is not what the source gives")
    if notebook_path.stat().st_size > LARGEST_NOTEBOOK:
        problems.append(f"{notebook_path.name} has more than {LARGEST_NOTEBOOK} bytes")
    return problems


# ---- the two commands

def build(source_path):
    """Execute a source and write its notebook and solutions. Raises ChapterError where either breaks a rule."""
    source = read_source(source_path)
    notebook_path, solutions_path = paths_of(source_path)
    executed, seconds = executed_edition(source)
    text = write_notebook(executed)
    if len(text.encode("utf-8")) > LARGEST_NOTEBOOK:
        raise ChapterError(f"{notebook_path.name} would have more than {LARGEST_NOTEBOOK} bytes; draw less, or smaller")
    solutions_path.parent.mkdir(exist_ok=True)
    notebook_path.write_text(text, encoding="utf-8", newline="\n")
    solutions_path.write_text(solutions_page(source, notebook_path.name), encoding="utf-8", newline="\n")
    _report(f"{notebook_path.name}: built, {len(text.encode('utf-8')) / 1000:.0f} kB", seconds)


def check(source_path):
    """Compare the committed files of a source and execute both editions. Raises ChapterError where something is wrong.

    A chapter that is slow is only reported.
    """
    problems = problems_of_files(source_path)
    if problems:
        raise ChapterError("; ".join(problems) + ". Run: python chapters/build.py")
    source = read_source(source_path)
    executed, seconds = executed_edition(source)
    if len(write_notebook(executed).encode("utf-8")) > LARGEST_NOTEBOOK:
        raise ChapterError(f"executed, the notebook has more than {LARGEST_NOTEBOOK} bytes")
    _report(f"{source_path.stem}: the reader's edition runs", seconds)
    _, seconds = execute(solved_edition(source))
    _report(f"{source_path.stem}: the solved edition runs, and its answers are right", seconds)


def _report(what, seconds):
    slow = f" (slow: expected at most {EXPECTED_SECONDS} s)" if seconds > EXPECTED_SECONDS else ""
    print(f"{what}, {seconds:.0f} s{slow}", flush=True)


def main(arguments=None):
    """Build or check the chapters named on the command line; the exit status is 1 where one has a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chapters", nargs="*", metavar="NN", help="numbers of chapters; all if there are none")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where something is not right")
    options = parser.parse_args(arguments)
    sources = sorted((CHAPTERS / "source").glob("*_*.py"))
    unknown = set(options.chapters) - {path.stem.partition("_")[0] for path in sources}
    if unknown:
        parser.error(f"there is no chapter {', '.join(sorted(unknown))} in {CHAPTERS / 'source'}")
    failures = 0
    for path in sources:
        if options.chapters and path.stem.partition("_")[0] not in options.chapters:
            continue
        try:
            (check if options.check else build)(path)
        except ChapterError as error:
            failures += 1
            print(f"{path.stem}: {error}", file=sys.stderr, flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
