# Two commands matter: `make demo` and `make test`. Both make the environment .venv first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

POLYMNIST := runs/polymnist

.PHONY: demo test test-slow soak lint mutants bench bench-imputation audit reproduce-polymnist clean

demo: $(STAMP)
	$(BIN)/polyvae demo --out runs/demo

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not soak"

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m "slow"

soak: $(STAMP)
	$(BIN)/python -m pytest -m "soak" --timeout=3600

mutants: $(STAMP)
	$(BIN)/python -m tests.mutants

bench: $(STAMP)
	$(BIN)/python -m benchmarks.bench

bench-imputation: $(STAMP)
	$(BIN)/python -m benchmarks.imputation --data all --missing 0 0.3 0.5 --intervals --probes --out runs/imputation.json

# Known vulnerabilities of the installed versions, and a bill of materials. Both tools stay outside the environment that they look at;
# pip-audit asks a vulnerability service, so it needs a network.
audit: $(STAMP)
	$(PYTHON) -m venv .audit
	.audit/bin/python -m pip install --quiet pip-audit cyclonedx-bom
	.audit/bin/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --of JSON -o sbom.cdx.json
	$(BIN)/python -m pip freeze --exclude-editable > .audit/installed.txt
	.audit/bin/pip-audit --requirement .audit/installed.txt --disable-pip --no-deps

# The paper's PolyMNIST experiment, on one GPU: 250 epochs. Stopped and called again, it goes on where it was.
reproduce-polymnist: $(STAMP)
	$(BIN)/polyvae train experiments/polymnist.toml --out $(POLYMNIST) $(if $(wildcard $(POLYMNIST)/checkpoints/latest),--resume)
	$(BIN)/polyvae evaluate $(POLYMNIST)
	$(BIN)/polyvae report $(POLYMNIST)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25"
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(STAMP)

clean:
	rm -rf .venv .audit build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
