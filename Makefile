# Every target does its own set-up: a fresh machine needs python3 (3.11 or newer), make and git.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: train claims methods test test-slow mutants bench check lint clean

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable . --group dev
	touch $(READY)

train: $(READY)  ## train the float32 and the MXFP8 language model on real text
	$(BIN)/python examples/train_lm.py --recipe mxfp8 --out runs/train_lm

claims: $(READY)  ## try each method's published claim in miniature; goes on where it was stopped
	$(BIN)/python -m examples.claims

methods: $(READY)  ## write the tables of methods into README.md and qjax/recipes/methods.md
	$(BIN)/python -m qjax.recipes

test: $(READY)  ## all tests but the slow ones
	$(BIN)/python -m pytest -n 2

check: $(READY)  ## style and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

test-slow: $(READY)  ## the exhaustive float32 checks and other long tests
	$(BIN)/python -m pytest -m slow

mutants: $(READY)  ## seed mistakes into copies of the numeric files; every one must be caught
	$(BIN)/python -m tests.mutants

bench: $(READY)  ## ratios against x + 0, the float model and the peers that are installed
	$(BIN)/python -m pytest -m benchmark -s tests/benchmarks

lint: $(READY)
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format . ; $(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf .venv runs
