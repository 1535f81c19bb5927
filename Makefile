# Everything a contributor runs. `make` alone prints this list.
# Override on the command line where needed, for example: make install PYTHON=python3.12

PYTHON ?= $(shell python3.11 --version >/dev/null 2>&1 && echo python3.11 || echo python3)
TEST_JOBS ?= 2

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH_PIN := $(VENV)/torch-constraint.txt

# One torch thread a test process: with more, the processes fight over the cores and all get slower.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(TEST_JOBS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install demo docs test test-slow check check-format check-lint check-types check-docs format

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(READY) ## create .venv with all the project needs (done once, and again when pyproject.toml changes)

demo: $(READY) ## load a bundled model and show its circuit, step by step
	@$(BIN)/interpbench demo

test: $(READY) ## run the quick tests
	$(PYTEST) -m "not slow and not network"

# pytest exits with 5 when no test bears the mark, which is no failure.
test-slow: $(READY) ## run the tests marked slow
	$(PYTEST) -m "slow and not network" || [ $$? -eq 5 ]

check: check-format check-lint check-types check-docs ## check format, lint, types and generated documents

check-docs: $(READY)
	$(BIN)/python scripts/make_docs.py --check

docs: $(READY) ## generate what is generated under docs/
	$(BIN)/python scripts/make_docs.py

check-format: $(READY)
	$(BIN)/ruff format --check .

check-lint: $(READY)
	$(BIN)/ruff check .

check-types: $(READY)
	$(BIN)/pyright

format: $(READY) ## format the code and apply the safe lint fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The stamp is written last, so an interrupted installation is taken up again by the next make.
$(READY): pyproject.toml scripts/install_torch.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, $(PYTHON) is {sys.version.split()[0]}; name another one: make PYTHON=...")'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python scripts/install_torch.py --constraint $(TORCH_PIN)
	$(BIN)/pip install --constraint $(TORCH_PIN) --editable ".[dev]"
	@touch $@
