# Two commands on a fresh machine: `make demo` and `make test`. Both set up .venv first.
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu     PyTorch's small CPU build
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cu130   a CUDA build
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
PYTEST_WORKERS ?= auto

BIN := $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install --progress-bar on --disable-pip-version-check -c constraints.txt \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: demo test test-slow bench lint setup clean
demo: $(VENV)/.core
	$(BIN)/hrtem-dask demo --out demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) -m "not slow"

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

# writes benchmarks/RESULTS.md; close everything else first. BENCH="kernel --threads 2" runs a part
bench: $(VENV)/.dev
	$(PIP_INSTALL) -e ".[bench]"
	$(BIN)/python -m benchmarks $(BENCH)

lint: $(VENV)/.dev
	$(BIN)/ruff check .

setup: $(VENV)/.dev

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"found Python {v.major}.{v.minor}; hrtem_dask needs 3.11 or later: make PYTHON=python3.12 demo")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP_INSTALL) -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) demo build *.egg-info
