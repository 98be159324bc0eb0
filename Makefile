# make demo       set everything up in .venv and run the demo
# make test       set everything up in .venv and run the tests, about nine minutes on two cores
# make test-all   the tests that `make test` leaves out; those of Slurm need: apt-get install slurm-wlm munge
# make lint       check style and types
# make format     apply the style
# make docs       build the documentation site into site/, warnings are errors
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all lint format docs clean

demo: $(VENV)/.installed
	$(BIN)/xattnres demo --overwrite

test: $(VENV)/.installed
	$(BIN)/python -m pytest --numprocesses auto

test-all: $(VENV)/.installed
	$(BIN)/python -m pytest --numprocesses auto -m "interpreter or soak or slow or slurm"

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed
	$(BIN)/mkdocs build --strict

# reinstalled when the metadata changes; the code itself is installed in place
$(VENV)/.installed: pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist site *.egg-info xattnres_demo
