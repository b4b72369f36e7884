# attnengine: `make demo` and `make test` are all that a fresh checkout needs.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
ARGS   ?=
# Tests in as many processes as there are processors, up to four; each begins with a stretch of its own, so that files
# stay together, and helps out where others are not done.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal
say    = @printf '\033[1m==> %s\033[0m\n'

.PHONY: help demo test lint screenshots acceptance clean
.DEFAULT_GOAL := help

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*##/\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(VENV)/demo.installed  ## analyse the bundled model on the bundled text and open the explorer (ARGS=--no-serve: do not)
	$(BIN)/attnengine demo $(ARGS)

test: lint  ## ruff, mypy and pytest (ARGS=…: pytest's arguments)
	$(say) "Tests"
	$(PYTEST) $(ARGS)

lint: $(VENV)/test.installed  ## ruff and mypy
	$(say) "Lint and types"
	$(BIN)/ruff check
	$(BIN)/mypy

screenshots: $(VENV)/test.installed  ## every view of the explorer, light and dark, at two sizes (RUN=folder, ARGS=--out folder)
	$(BIN)/python benchmarks/screenshots.py $(RUN) --all $(ARGS)

acceptance: $(VENV)/test.installed  ## the project's targets on the real model, minutes long
	$(PYTEST) -m acceptance $(ARGS)

clean:  ## remove the virtual environment, caches and builds; runs are kept
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Editable, so that a change in the source needs no reinstall; a change of the dependencies does.
$(VENV)/demo.installed: pyproject.toml | $(VENV)/bin/python
	$(say) "Installing attnengine"
	@$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/test.installed: pyproject.toml | $(VENV)/bin/python
	$(say) "Installing attnengine and the tools for its tests"
	@$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $(VENV)/demo.installed $@

# PyTorch goes first and alone: it is most of the download, and a PIP_CONSTRAINT or a local build of it is seen early.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'attnengine needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo 'Python has no venv module; on Debian: apt-get install python3-venv'; exit 1; }
	$(say) "Creating a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	$(say) "Installing PyTorch (some hundred MB, with CUDA some GB: minutes, and pip is silent meanwhile)"
	@$(BIN)/python -m pip install --quiet 'torch>=2.9' || { rm -rf $(VENV); exit 1; }
