# make demo   set everything up in .venv and run the demo
# make test   set everything up in .venv and run the tests
# make test-slurm   the tests that need Slurm: apt-get install slurm-wlm munge
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slurm lint clean

demo: $(VENV)/.installed
	$(BIN)/xattnres demo --overwrite

test: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

test-slurm: $(VENV)/.installed
	$(BIN)/python -m pytest -m slurm

lint: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# reinstalled when the metadata changes; the code itself is installed in place
$(VENV)/.installed: pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info xattnres_demo
