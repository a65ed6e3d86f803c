# make demo       train a small network to see the whole thing work; ARGS="--epochs 3" reaches train.py
# make test       lint and the test suite; ARGS="-k resume" reaches pytest
# make test-all   the same with the slow tests
# make test-gpu   what only a GPU can show, tested and measured in 9 minutes; see docs/gpu.md
# make lint       ruff, the floors of the rooms (import-linter), types (pyrefly)
# make clean      remove .venv and caches; never runs/
#
# Nothing has to be installed or activated first: every target makes .venv by itself. All paths are relative,
# so the checkout may lie in a path with spaces. GNU make 3.81 (macOS) is enough.

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
READY := .venv/.installed
# Python's caches are written, whatever the environment says: tests start hundreds of processes.
unexport PYTHONDONTWRITEBYTECODE

# Where no .venv was made (Kaggle, a machine without a network) the Python at hand has what is needed.
GPU_PYTHON := $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))

# Tests compute with one thread, so that two files run at once in little more than the time of one. A process that
# ended because its test hung is not started again: it would hang there anew.
AT_ONCE := -n 2 --dist loadfile --max-worker-restart 0

.PHONY: demo test test-all test-gpu lint clean

demo: $(READY)
	$(BIN)/accelerate launch --config_file accelerate_configs/cpu.yaml train.py $(ARGS)

test: lint
	$(BIN)/python -m pytest $(AT_ONCE) $(ARGS)

test-all: lint
	$(BIN)/python -m pytest $(AT_ONCE) -m "slow or not slow" $(ARGS)

test-gpu:
	$(GPU_PYTHON) -m tests.gpu $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/pyrefly check --output-format min-text

# The stamp is written last, so an interrupted installation is done again, and a changed lock too.
# uv installs the lock because it downloads and unpacks in parallel and links from its cache: on two shared cores
# 45 s with an empty cache, against 203 s with pip (one run each). pip brings uv into .venv itself, so that
# nothing else is needed. It compiles what it has unpacked, half a minute: else each process does, or, where Python may
# not write its caches, each process again: train.py on digits then takes 20 s where it takes 13.
$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "requirements.lock needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python -r requirements.lock
	touch $@

clean:
	rm -rf .venv .pytest_cache .ruff_cache
	find . \( -path ./runs -o -path ./.git \) -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
