# Two commands for a newcomer: `make quickstart` and `make test`. Both make .venv and install what they need first.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
OUT ?= quickstart-out
PIP_FLAGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-all check docs format clean

help: ## Show this list
	@echo "make quickstart   see it work: fine-tunes, swaps, measures, and writes $(OUT)/ (OUT=folder for another place)"
	@echo "make test         run the tests, on up to four cores"
	@echo "make test-all     run the tests, the slow ones too"
	@echo "make check        ruff, format, mypy and the import layers"
	@echo "make docs         build the site in build/site; a warning is an error"
	@echo "make format       let ruff mend what it can"
	@echo "make clean        remove what was built and the caches; keeps .venv, .checkpoints and $(OUT)"
	@echo
	@echo "The first of these makes $(VENV) and installs about 7 GB there. PYTHON=python3.12 chooses another Python;"
	@echo "PIP_FLAGS passes options to pip, for example an index that has smaller CPU-only builds of torch."

quickstart: $(STAMP)
	@if [ -e "$(OUT)" ]; then \
	  echo "$(OUT) exists already: open $(OUT)/report.html, or 'rm -r $(OUT)', or 'make quickstart OUT=another-folder'." >&2; \
	  exit 2; fi
	$(BIN)/safeencoders quickstart --out "$(OUT)"

# By file, so that what a file prepares once is prepared once; a process needs up to 2 GB, hence at most four.
test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

test-all: $(STAMP)
	$(BIN)/python -m pytest -m "slow or not slow"

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "build/site/index.html; to search in it: $(BIN)/mkdocs serve"

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage
	find . -path ./$(VENV) -prune -o -path ./.git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last: an interrupted installation is taken up again, a changed pyproject.toml installs anew.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "safeencoders needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." >&2; \
	  echo "Install one and name it: make PYTHON=python3.12 ..." >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments: install its venv package (on Debian: python3-venv)." >&2; exit 2; }
	$(PYTHON) -m venv "$(VENV)"
	$(BIN)/python -m pip install $(PIP_FLAGS) -e '.[all]'
	@touch $@
