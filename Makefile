# whisperd: `make run` starts it, `make test` tests it; each sets up what it needs on a machine with Python and apt.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help run test lint format lock clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

run: $(VENV)/run  ## start the daemon on http://127.0.0.1:8002 with its defaults
	@echo 'When it is ready, paste this in another terminal:'
	@echo '  curl -F file=@tests/data/jfk.wav http://127.0.0.1:8002/tasks/transcription'
	@exec $(BIN)/whisperd serve

test: $(VENV)/dev  ## run every test, with real audio and real weights
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/dev  ## ruff, and mypy in strict mode
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev  ## put the code into its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(VENV)/dev  ## pin all dependencies anew, with their hashes
	$(PIP) install uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-annotate --extra tiny-en pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-annotate --extra tiny-en --group dev pyproject.toml -o requirements-dev.lock

clean:  ## remove what make made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "whisperd needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV) || (apt-get install -y python3-venv && $(PYTHON) -m venv $(VENV))

$(VENV)/run: $(VENV)/bin/python requirements.lock pyproject.toml
	@echo 'Installing whisperd into $(VENV) …'
	$(PIP) install --require-hashes -r requirements.lock
	$(PIP) install --no-deps -e .
	@touch $@

$(VENV)/dev: $(VENV)/bin/python requirements-dev.lock pyproject.toml
	@echo 'Installing whisperd and what its tests need into $(VENV) …'
	$(PIP) install --require-hashes -r requirements-dev.lock
	$(PIP) install --no-deps -e .
	@touch $@ $(VENV)/run
