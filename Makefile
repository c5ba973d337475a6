# Two commands matter: `make demo` and `make test`. Both make the environment .venv first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test test-slow soak lint mutants clean

demo: $(STAMP)
	$(BIN)/polyvae demo --out runs/demo

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 -m "not slow and not soak"

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m "slow"

soak: $(STAMP)
	$(BIN)/python -m pytest -m "soak" --timeout=3600

mutants: $(STAMP)
	$(BIN)/python tests/mutants.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25"
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(STAMP)

clean:
	rm -rf .venv build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
