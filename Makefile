# make setup: .venv with the metarun command. make run: meta-train and report. make test: the tests in minutes, make test-all: all.
# make docs: the pages of docs/ as a site, in site/.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup run test test-all lint types docs clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

run: setup
	$(BIN)/metarun train

test: setup
	$(BIN)/pytest

test-all: setup
	$(BIN)/pytest -m "not slow and not gpu"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

docs: setup
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv
