# Two commands: `make demo` trains a small GPT on real text and lets it write; `make test` proves the
# project. Both set up what they need in .venv first: Python 3.11 or newer and make are enough.

PYTHON ?= python3
CC     ?= cc
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

# Where the demo works: a workspace of its own, so that it never mixes with yours.
DEMO   := build/demo

.PHONY: demo test test-interop torture proof load lint native setup setup-dev clean help
.DEFAULT_GOAL := help

help:
	@echo "make demo    train a small GPT on Python's standard library and let it write (minutes)"
	@echo "make test    linters, types, C tests, Python tests"
	@echo "make torture kill a training run a thousand times; it must end as if it had not been"
	@echo "make proof   the same to 2,000 steps of the demo, whose memory must not grow (minutes)"
	@echo "make load    serve the demo's model to one client, then to 64: tokens per second, what was lost"
	@echo "make test-interop    what llmc exports, opened by llama.cpp (builds it: 10 minutes, C++ and cmake)"
	@echo "make native  build the engine with another C compiler: make native CC=cc"
	@echo "make clean   remove what make made"

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[offline,serve]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --editable '.[dev,fast,offline,parquet,plot,serve,torch]'
	@touch $@

setup: $(VENV)/installed

setup-dev: $(VENV)/installed-dev

demo: setup
	$(BIN)/llmc --workspace $(DEMO) prepare stdlib
	$(BIN)/llmc --workspace $(DEMO) train --config python-stdlib
	$(BIN)/llmc --workspace $(DEMO) sample --decode --prompt "$$(printf 'class Reader:\n    def __init__(self')"
	@echo
	@echo "Talk with it in the browser, by one more command: $(BIN)/llmc --workspace $(DEMO) serve"

test: lint
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

# A run killed a thousand times at random moments must end as if it had not been.
torture: setup-dev
	$(BIN)/python -m tests.programs.torture 1000

# One client, then 64 at once for a minute, against the demo's model.
load: setup-dev
	$(BIN)/python -m tests.programs.load --workspace $(DEMO) --slots 32

# The demo's model, 2,000 steps, killed some 30 times: the same end, and the memory never grows.
proof: setup-dev
	$(BIN)/python -m tests.programs.torture --proof

# llama-cpp-python has no wheels on the package index: pip compiles llama.cpp, once.
INTEROP := llama-cpp-python

$(VENV)/installed-interop: $(VENV)/installed-dev
	$(PIP) '$(INTEROP)'
	@touch $@

test-interop: $(VENV)/installed-interop
	$(BIN)/python -m pytest tests/oracle/interop_llama_cpp.py

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The engine alone, by any C compiler, from the flag table that `llmc build` uses.
native: setup
	@mkdir -p build/native
	$(BIN)/python -m llmc.engine.toolchain --cc '$(CC)' --out build/native > build/native/Makefile
	$(MAKE) --no-print-directory --file build/native/Makefile

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
