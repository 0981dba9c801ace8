"""The builder: what it refuses, what a reader gets to see, and what the committed notebooks hold."""

import json
import re
from pathlib import Path

import nbformat
import pytest

CHAPTERS = Path(__file__).parents[2] / "chapters"
SOURCES = sorted((CHAPTERS / "source").glob("*_*.py"))
every_chapter = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)

SOLUTION_METADATA = ('nbgrader={"grade": false, "grade_id": "double", "locked": false, "schema_version": 3, '
                     '"solution": true, "task": false}')
CHECK_METADATA = ('nbgrader={"grade": true, "grade_id": "double-check", "locked": true, "points": 1, '
                  '"schema_version": 3, "solution": false, "task": false}')
SMALL = f'''# %% [markdown] slug="title"
# # 9 · Doubling
#
# Running time: {{running time}}.

# %% [markdown] slug="exercise-double"
# ### Exercise 9.1 · Double it

# %% slug="double" {SOLUTION_METADATA}
def double(x):
    """Twice x."""
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION


# %% slug="feedback"
class Feedback:
    """What a check returns, as far as the builder cares."""

    def __init__(self, double):
        try:
            self.is_right = double(2) == 4
        except NotImplementedError:
            self.is_right = False

    def __repr__(self):
        return "right" if self.is_right else "not right"


# %% slug="double-check" {CHECK_METADATA}
Feedback(double)

# %% [markdown] slug="double-explained" tags=["solution"]
# Because two is two.

# %% slug="table"
answers = {{"a": None}}
### BEGIN SOLUTION
answers = {{"a": True}}
### END SOLUTION
'''


@pytest.fixture
def write(tmp_path):
    """Writes a source and returns its path."""
    def write(text, name="09_doubling.py"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path
    return write


@pytest.fixture
def small(builder, write):
    return builder.read_source(write(SMALL))


def cell_of(notebook, name):
    return next(cell for cell in notebook.cells if cell.id == name)


# ---- what it refuses

def test_slugs_become_the_cell_ids(small):
    assert [cell.id for cell in small.cells] == [
        "title", "exercise-double", "double", "feedback", "double-check", "double-explained", "table"]


@pytest.mark.parametrize(("old", "new", "message"), [
    ('slug="table"', "", r"09_doubling.py: cell 7 \('answers = .*'\) has no slug; write one behind its marker"),
    ('slug="table"', 'slug="double"', r"cell 7 .*the slug 'double' belongs to an earlier cell"),
    ('slug="table"', 'slug="The Table"', r"cell 7 .*expected a slug of at most 64 lower-case letters.*'The Table'"),
    ('slug="table"', f'slug="{"a" * 65}"', "at most 64"),
])
def test_a_bad_slug_is_refused_with_its_cell(builder, write, old, new, message):
    with pytest.raises(builder.ChapterError, match=message):
        builder.read_source(write(SMALL.replace(old, new)))


def test_main_reports_a_fault_and_fails(builder, write, tmp_path, monkeypatch, capsys):
    (tmp_path / "source").mkdir()
    write(SMALL.replace('slug="table"', ""), "source/09_doubling.py")
    monkeypatch.setattr(builder, "CHAPTERS", tmp_path)
    for arguments in ([], ["--check"], ["09"]):
        assert builder.main(arguments) == 1
        assert "09_doubling: " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    with pytest.raises(SystemExit):
        builder.main(["10"])
    assert "there is no chapter 10" in capsys.readouterr().err


# ---- the editions

def test_the_reader_gets_a_stub_that_keeps_its_docstring(builder, small):
    reader = builder.readers_edition(small)
    assert cell_of(reader, "double").source == (
        'def double(x):\n    """Twice x."""\n    # Your answer goes here.\n    raise NotImplementedError')
    assert cell_of(reader, "table").source == 'answers = {"a": None}\n# Your answer goes here.'
    assert "double-explained" not in [cell.id for cell in reader.cells]
    assert cell_of(reader, "double").metadata.nbgrader.grade_id == "double"


def test_the_solved_edition_has_the_solutions_and_insists_on_good_feedback(builder, small):
    solved = builder.solved_edition(small)
    assert cell_of(solved, "double").source == 'def double(x):\n    """Twice x."""\n    return 2 * x'
    assert cell_of(solved, "double-check").source == (
        "feedback = Feedback(double)\nassert feedback.is_right, feedback")


def test_the_page_of_solutions(builder, small):
    head, _, rest = builder.solutions_page(small, "09_doubling.ipynb").partition("\n## ")
    assert head.startswith("# Solutions to 9 · Doubling\n\nBack to [the chapter](../09_doubling.ipynb).")
    assert rest == '''Exercise 9.1 · Double it

```python
def double(x):
    """Twice x."""
    return 2 * x
```

Because two is two.

```python
answers = {"a": True}
```
'''


# ---- executing and comparing; one small notebook, a few seconds

def test_build_and_check_a_small_chapter(builder, write, tmp_path, monkeypatch, capsys):
    (tmp_path / "source").mkdir()
    source = write(SMALL, "source/09_doubling.py")
    monkeypatch.setattr(builder, "CHAPTERS", tmp_path)
    notebook_path = tmp_path / "09_doubling.ipynb"

    assert builder.main([]) == 0
    notebook = nbformat.read(notebook_path, as_version=4)
    assert re.search(r"Running time: \d+ s, measured with Python 3\.", notebook.cells[0].source)
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == [1, 2, 3, 4]
    before = notebook_path.read_bytes(), (tmp_path / "solutions" / "09.md").read_bytes()
    assert builder.main(["--check"]) == 0
    assert (notebook_path.read_bytes(), (tmp_path / "solutions" / "09.md").read_bytes()) == before
    assert capsys.readouterr().err == ""

    source.write_text(SMALL.replace("return 2 * x", "return 3 * x"), encoding="utf-8")
    assert builder.main(["--check"]) == 1
    assert "09.md is not what the source gives" in capsys.readouterr().err
    (tmp_path / "solutions" / "09.md").write_text(
        builder.solutions_page(builder.read_source(source), notebook_path.name), encoding="utf-8")
    assert builder.main(["--check"]) == 1               # the files agree, but the answer is wrong
    assert "AssertionError: not right" in capsys.readouterr().err


@pytest.mark.parametrize(("change", "message"), [
    (lambda cells: cells.pop(), "the cell 'table' of the source is missing"),
    (lambda cells: cells.reverse(), "the cells are in another order"),
    (lambda cells: cells[-1].update(source="answers = {}"), "the cell 'table' is not that of the source"),
    (lambda cells: cells[0].update(source="# 9 · Doubling"), "the cell 'title' is not that of the source"),
    (lambda cells: cells.append(nbformat.v4.new_code_cell("1", id="extra")), "'extra' that is not in the source"),
])
def test_a_committed_notebook_that_drifted_is_found(builder, small, change, message):
    committed = builder.readers_edition(small)
    committed.cells[0].source = committed.cells[0].source.replace("{running time}", "12 s on a fast machine")
    assert builder.differences(committed, small) == []
    change(committed.cells)
    assert message in "; ".join(builder.differences(committed, small))


# ---- the committed notebooks

def committed(path):
    return nbformat.read(CHAPTERS / f"{path.stem}.ipynb", as_version=4)


def outputs(notebook):
    return [(cell, output) for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def test_there_are_chapters():
    assert SOURCES


@every_chapter
def test_the_committed_files_are_those_of_the_source(builder, path):
    assert builder.problems_of_files(path) == []


@every_chapter
def test_every_code_cell_was_executed_in_order_without_errors_or_warnings(path):
    notebook = committed(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell, output in outputs(notebook):
        assert output.output_type != "error", cell.id
        assert output.get("name") != "stderr", cell.id


@every_chapter
def test_no_solution_is_in_the_readers_notebook(builder, path):
    source, reader = builder.read_source(path), committed(path)
    text = (CHAPTERS / f"{path.stem}.ipynb").read_text(encoding="utf-8")
    assert "BEGIN SOLUTION" not in text and "END SOLUTION" not in text
    found = 0
    for cell in source.cells:
        if "solution" in cell.metadata.get("tags", []):
            assert cell.id not in [other.id for other in reader.cells]
            found += 1
        for _, body in builder.SOLUTION.findall(cell.source):
            assert body.strip() not in cell_of(reader, cell.id).source
            found += 1
    assert found


@every_chapter
def test_outputs_hold_no_path_and_no_memory_address(path):
    for cell, output in outputs(committed(path)):
        texts = {kind: data for kind, data in output.get("data", {}).items() if kind.startswith("text/")}
        text = output.get("text", "") + json.dumps(texts)
        assert not re.search(r"0x[0-9a-f]{6,}|/home/|/tmp/|/Users/|site-packages|[A-Z]:\\\\", text), cell.id
        assert str(Path.home()) + "/" not in text and str(CHAPTERS.parent) not in text, cell.id


@every_chapter
def test_every_figure_is_followed_by_its_caption(path):
    cells = committed(path).cells
    figures = [i for i, cell in enumerate(cells) if cell.cell_type == "code"
               and any("image/png" in output.get("data", {}) for output in cell.outputs)]
    number = int(path.stem[:2])
    for count, i in enumerate(figures, 1):
        caption = cells[i + 1]
        assert caption.cell_type == "markdown" and caption.source.startswith(f"*Figure {number}.{count}. ")
        assert len(caption.source) > 150        # it must do as the text alternative


@every_chapter
def test_lines_of_a_source_fit_the_page(path):
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        assert len(line) <= 120 or line.startswith("# %%"), f"{path.name}:{number}"


@every_chapter
def test_the_prose_keeps_to_the_house_style(builder, path):
    prose = [(cell.id, cell.source) for cell in builder.read_source(path).cells if cell.cell_type == "markdown"]
    for name, text in prose:
        assert not re.search(r"\bsimply\b|as we all know|!(?!\[)", text), name
        assert not re.search("[\U0001f300-\U0001faff\u2600-\u27bf]", text), name


@every_chapter
def test_the_list_of_chapters_has_it(path):
    assert f"({path.stem}.ipynb)" in (CHAPTERS / "README.md").read_text(encoding="utf-8")


@every_chapter
def test_a_chapter_reads_no_network_and_no_other_chapter(builder, path):
    code = "\n".join(cell.source for cell in builder.read_source(path).cells if cell.cell_type == "code")
    imported = set(re.findall(r"^\s*(?:import|from) (\w+)", code, re.MULTILINE))
    assert not imported & {"urllib", "requests", "socket", "http", "torch", "transformers"}
    assert not re.search(r"\bopen\(|chapters/|%run", code)
