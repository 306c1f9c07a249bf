# Two commands for a fresh machine, each doing its own set-up: make demo, make test.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
RUN = runs/demo

.PHONY: demo demo-plan web docs test lint speedrun asked gpu-check release-check format clean

demo: demo-plan $(VENV)/.demo  ## train on photographs of solar cells, draw and measure: runs/demo
	@$(PYTHON) scripts/page_runtime.py || true
	@rm -rf $(RUN)
	@echo "1 of 2: training for six minutes on 2,624 photographs of solar cells (Ctrl-C stops and saves),"
	@echo "        then half a minute of fitting what new cells are drawn from"
	@$(BIN)/vaekit train elpv --channels 1 --size 64 --minutes 6 --out $(RUN)
	@echo "2 of 2: measuring, about two minutes"
	@$(BIN)/vaekit evaluate $(RUN)
	@echo
	@echo "done; open these three pictures:"
	@echo "  $(RUN)/figures/reconstructions.png  cells it has never seen, and what it makes of them"
	@echo "  $(RUN)/figures/transitions.png      from one cell to another"
	@echo "  $(RUN)/figures/samples.png          cells that do not exist"
	@echo "the numbers are in $(RUN)/evaluation.md; play with the model in a browser: $(BIN)/vaekit explore $(RUN)"
	@echo "next: $(BIN)/vaekit train YOUR_PICTURES --size 64"

demo-plan:
	@echo "vaekit demo: set-up (once, 1 to 5 min), training (6 min), measuring and drawing (2 min)"

web:  ## bring what the explorer's page computes with (onnxruntime-web), by npm
	@$(PYTHON) scripts/page_runtime.py

docs: $(VENV)/.docs  ## the site, from docs/ and docstrings, into site/; warnings are errors
	$(BIN)/zensical build --strict

test: lint  ## lint, types and tests; those of the page where there are npm and chromium
	@$(PYTHON) scripts/page_runtime.py || true
	$(BIN)/pytest -n 2

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

release-check:  ## build sdist and wheel, install the wheel into an empty venv, use it there
	@$(PYTHON) scripts/release_check.py

speedrun: asked $(VENV)/.dev  ## the last record of docs/speedrun.md again: make speedrun PICTURES=celeba/
	$(BIN)/python benchmarks/speedrun.py $(PICTURES)

asked:
	@test -n "$(PICTURES)" || { echo "of which pictures? make speedrun PICTURES=celeba/"; exit 2; }

gpu-check: $(VENV)/.dev  ## on a CUDA machine: every fast path against the CPU, and how fast it is
	$(BIN)/pytest tests/training/test_gpu.py -rs

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## everything that the other targets made, runs excepted
	rm -rf $(VENV) site .cache .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.%: pyproject.toml
	@$(PYTHON) -m venv $(VENV)
	@echo "set-up: installing vaekit and what it needs into $(VENV); 1 to 5 minutes, most of it PyTorch, once"
	@sh .ci/install $(BIN)/pip $(VENV)/install.log $(EXTRAS_$*)
	@touch $@

EXTRAS_demo = demo,onnx
EXTRAS_dev = demo,dev
EXTRAS_docs = docs
