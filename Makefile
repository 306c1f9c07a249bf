# Two commands for a fresh machine, each doing its own set-up: make demo, make test.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test lint gpu-check format clean

demo: $(VENV)/.demo  ## train on photographs of solar cells, draw and measure: runs/demo
	rm -rf runs/demo
	$(BIN)/vaekit train elpv --channels 1 --size 64 --minutes 6 --out runs/demo
	$(BIN)/vaekit evaluate runs/demo
	$(BIN)/vaekit sample runs/demo --prior gaussian-mixture
	@echo "the figures are in runs/demo/figures, the numbers in runs/demo/evaluation.json"

test: lint  ## lint, types and tests
	$(BIN)/pytest -n 2

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

gpu-check: $(VENV)/.dev  ## on a CUDA machine: every fast path against the CPU, and how fast it is
	$(BIN)/pytest tests/test_gpu.py -rs

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## everything that the other targets made, runs excepted
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[demo]'
	touch $@

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[demo,dev]'
	touch $@
