# Two commands do everything on a fresh machine:
#   make quickstart   set up, train on the embedded models and images, analyse and classify with the descriptions
#                     (again: what is done is kept; `make quickstart OVERWRITE=true` trains anew)
#   make test         set up, run the tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# What is imported is compiled then and kept, which takes seconds; at the installation pip would compile everything, in a minute.
# Silent: what is installed, and what that takes, is said in one line before.
INSTALL := @$(PIP) install -q --no-compile
export PYTHONDONTWRITEBYTECODE :=
REQUIREMENTS := pyproject.toml constraints.txt requirements-embedded.txt

.PHONY: quickstart test coverage check docs format clean help

help:  ## Show this help.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

OVERWRITE ?= false
quickstart: $(VENV)/.run  ## Set up, train the embedded job, analyse and classify with its descriptions.
	CUDA_VISIBLE_DEVICES=$${CUDA_VISIBLE_DEVICES-0} $(BIN)/ex2 study --config configs/quickstart.yaml --overwrite $(OVERWRITE)

test: $(VENV)/.dev  ## Set up and run the tests.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

coverage: $(VENV)/.dev  ## Run the tests with coverage of the package.
	$(BIN)/python -m pytest --cov=ex2 --cov-report=term-missing:skip-covered

check: $(VENV)/.dev  ## Lint and check types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.dev  ## Build the documentation site in site/; warnings are errors (with --quiet they would not be).
	$(BIN)/mkdocs build --strict

format: $(VENV)/.dev  ## Format the code and fix what the linter can.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove the virtual environment, caches and runs.
	rm -rf $(VENV) runs build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python $(REQUIREMENTS)
	@echo "Installing into $(VENV): some minutes, and 7 GB where torch brings CUDA libraries (README.md: Install)"
	$(INSTALL) -c constraints.txt -e .
	$(INSTALL) --no-deps --require-hashes -r requirements-embedded.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "Installing what tests, checks and documentation need"
	$(INSTALL) -c constraints.txt -e '.[dev]'
	@touch $@
