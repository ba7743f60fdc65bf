# whisperd: `make run` starts it, `make test` tests it; each sets up what it needs on a machine with Python and apt.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
SUDO   := $(if $(filter-out 0,$(shell id -u)),sudo)

.DEFAULT_GOAL := help
.PHONY: help run test reliability lint format docs site lock vendor binary man clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20

run: $(VENV)/run  ## start the daemon on http://127.0.0.1:8002 with its defaults
	@WHISPERD_EXAMPLE=tests/data/jfk.wav exec $(BIN)/whisperd serve

test: $(VENV)/dev  ## run every test, with real audio and real weights
	$(BIN)/python -m pytest $(ARGS)

reliability: $(VENV)/dev  ## attack each promise for as long as it takes: crashes, full disks, long runs
	$(BIN)/python -m pytest tests/reliability tests/e2e/test_schema.py tests/e2e/test_long_file.py \
	  tests/clients/test_patience.py tests/redis/test_attacks.py tests/redis/test_redis_trouble.py --long $(ARGS)

lint: $(VENV)/dev  ## ruff, and mypy in strict mode
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev  ## put the code into its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/dev  ## write what is made from declarations: pages of settings, calls, commands; the schema of rules
	$(BIN)/python -m docs.generate

site: $(VENV)/dev  ## build docs/ as a site, into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

LOCK = $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	--no-annotate --extra tiny-en --group build

lock: $(VENV)/dev  ## pin all dependencies anew, with their hashes
	$(PIP) install uv
	$(LOCK) pyproject.toml -o requirements.lock
	$(LOCK) --group dev pyproject.toml -o requirements-dev.lock
	$(LOCK) --extra otel --extra redis --extra risk pyproject.toml -o packaging/docker/requirements.lock

vendor:  ## fetch the dashboard's libraries anew, in the versions of packaging/dashboard (needs npm)
	cd packaging/dashboard && npm ci --silent --no-audit --no-fund --ignore-scripts
	node packaging/dashboard/build.mjs whisperd/web/dashboard/vendor

binary: $(VENV)/dev  ## build dist/whisperd: whisperd as one file, with its Python, whisper.cpp and tiny.en in it
	$(BIN)/python packaging/binary/build.py dist/whisperd build/binary

man: $(VENV)/run  ## write the man page anew, from what the commands say of themselves
	@mkdir -p packaging/man
	$(BIN)/whisperd --man > packaging/man/whisperd.1

clean:  ## remove what make made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

# What is locked holds all of them: the build backend too, which pip would fetch unpinned and unhashed.
$(VENV)/run: $(VENV)/made requirements.lock pyproject.toml
	@echo 'Installing whisperd into $(VENV) …'
	$(PIP) install --require-hashes -r requirements.lock
	$(PIP) install --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/dev: $(VENV)/made requirements-dev.lock pyproject.toml
	@echo 'Installing whisperd and what its tests need into $(VENV) …'
	$(PIP) install --require-hashes -r requirements-dev.lock
	$(PIP) install --no-build-isolation --no-deps -e .
	@touch $@ $(VENV)/run

# Debian's python3 comes without the pip for a venv: then `-m venv` fails and leaves one that looks whole.
HAS_PIP  = $(BIN)/python -m pip --version >/dev/null 2>&1
NEW_VENV = rm -rf $(VENV) && $(PYTHON) -m venv $(VENV) && $(HAS_PIP)
GET_VENV = $(SUDO) apt-get update && $(SUDO) apt-get install -y python3-venv
CAN_APT  = command -v apt-get >/dev/null$(if $(SUDO), && command -v $(SUDO) >/dev/null)
NEEDS    = whisperd needs Python 3.11 or newer

$(VENV)/made:
	@command -v $(PYTHON) >/dev/null || { echo '$(NEEDS): there is no $(PYTHON)' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(NEEDS): $(PYTHON) is older")'
	@$(HAS_PIP) || $(NEW_VENV) || { $(CAN_APT) && $(GET_VENV) && $(NEW_VENV); } || \
	  { rm -rf $(VENV); echo '$(PYTHON) -m venv does not work: as root, apt-get install python3-venv' >&2; exit 1; }
	@touch $@
