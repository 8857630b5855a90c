# Every target works as the first command on a fresh clone: Python 3.11+, gcc and make are all it takes.

PYTHON ?= python3
BIN := .venv/bin
CACHE := cache_demo
RUN := runs/demo

.PHONY: install train test faults bench lint types

install: .venv/installed

.venv/installed: requirements-dev.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --requirement requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

train: install
	rm -rf $(CACHE) $(RUN)
	$(BIN)/atft-engine cache simulate --out $(CACHE) --codes 800 --days 1300 --features 16 --ic 0.08
	$(BIN)/atft-engine train --arrow $(CACHE) --config examples/demo.toml --out $(RUN)
	$(BIN)/python examples/compare_with_oracle.py $(RUN) $(CACHE)

test: install
	$(BIN)/pytest tests --numprocesses 2 --dist worksteal

faults: install
	$(BIN)/python -m tests.faults --hours 1

bench: install
	$(BIN)/pytest bench --benchmark-only

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy
