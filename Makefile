# make reproduce   set up and run the laptop reproduction; ends with the main results table
# make test        set up and run the tests
# make check       set up and run linters, formatters and the type checker
# make explain METHOD=trapo [PRESET=as_released]   what a method asks for and learns from, without a model

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PRESET ?= matched

.PHONY: reproduce test check explain clean

reproduce: $(VENV)/installed
	$(BIN)/snakemake --cores all --rerun-incomplete

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/snakemake --lint

explain: $(VENV)/installed
	@$(BIN)/assay explain $(METHOD) --preset $(PRESET)

$(VENV)/installed: requirements/assay.txt pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Assay needs Python 3.11 or newer: make PYTHON=python3.11 ...')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements/assay.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

$(VENV)/installed-dev: requirements/dev.txt $(VENV)/installed
	$(BIN)/python -m pip install --quiet --requirement requirements/dev.txt
	touch $@

clean:
	find results -mindepth 1 -maxdepth 1 ! -name published -exec rm -rf {} +; rm -rf .snakemake
