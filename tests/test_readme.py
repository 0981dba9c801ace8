"""README's code runs as it stands there, and does what its comments say."""

import re
from pathlib import Path

import pytest

from tinyllama.gradients import GradientError

README = Path(__file__).parents[1] / "README.md"


def test_the_code_of_readme_runs_and_ends_with_the_error_that_it_promises(capsys):
    text = README.read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))
    assert code.count("raises GradientError") == 2
    names = {}
    with pytest.raises(GradientError, match="the gradient of model"):
        exec(compile(code, str(README), "exec"), names)
    tokens, *rest = capsys.readouterr().out.split("rmsnorm_backward: largest relative error")
    assert len(tokens.split()) == 10
    assert len(rest) == 1
    assert names["model"].backend is names["mine"]


def test_the_files_that_readme_links_to_are_there():
    for target in re.findall(r"\]\(([^)]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target
