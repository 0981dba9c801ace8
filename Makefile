# `make demo` trains a small LLaMA on Shakespeare, `make test` runs the tests, `make chapters` executes the notebooks.
# Each sets everything up first.

PYTHON ?= python3
ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
else
BIN := .venv/bin
endif

.PHONY: demo test chapters check-chapters lint clean

demo: .venv/installed
	$(BIN)/tinyllama train --data shakespeare --steps 1200
	$(BIN)/tinyllama gradcheck

test: .venv/installed
	$(BIN)/python -m pytest -n auto --cov --cov-fail-under=90

chapters: .venv/installed
	$(BIN)/python chapters/build.py

check-chapters: .venv/installed
	$(BIN)/python chapters/build.py --check

lint: .venv/installed
	$(BIN)/ruff check .

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[data,dev]"
	$(BIN)/python -c "open('.venv/installed', 'w').close()"

clean:
	$(PYTHON) -c "import shutil; shutil.rmtree('.venv', ignore_errors=True)"
