# The two commands of the README; each makes its own environment first.
#   make demo   trains, combines, compares and exports a small mixture on text already on this machine
#   make test   lint, types, tests
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test docs clean

demo: .venv/installed
	$(BIN)/moesaic run recipes/quickstart.yaml

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

docs: .venv/installed
	$(BIN)/python -m docs.generate

.venv/installed: requirements.lock pyproject.toml setup.py $(wildcard src/moesaic/experts/native/*)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf .venv runs
