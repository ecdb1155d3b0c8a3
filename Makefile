# Everything runs in .venv; nothing but Python 3.11+ and make is needed.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Several tests at once, each file's by one process. What starts Ray has the machine to itself.
PARALLEL := --numprocesses logical --maxprocesses 4 --dist loadfile

.PHONY: install demo test check bench study clean clean-results
.DEFAULT_GOAL := help

help:
	@echo "make demo    install, run the quickstart sweep under Ray Tune, print its table"
	@echo "make test    the whole test suite, lint and types first"
	@echo "make check   lint, types, fast tests"
	@echo "make bench   speed, side by side with what people use today -> results/benchmarks/"
	@echo "make study   run every shipped sweep, then write tables and pictures -> results/studies/"
	@echo "make clean   remove the environment, builds and the tools' caches; make clean-results: your sweeps' results too"

# The stamp is renewed when what is installed changes, so each target can simply depend on it.
$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "modesweep needs Python 3.11 or newer; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

install: $(VENV)/installed

demo: install
	$(BIN)/modesweep run quickstart
	@echo
	@echo "Next:  $(BIN)/modesweep ui        browse every cell in MLflow"
	@echo "       $(BIN)/modesweep summary quickstart"

test: check
	$(BIN)/pytest -m "slow and not alone" $(PARALLEL)
	$(BIN)/pytest -m alone

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -m "not slow" $(PARALLEL)

bench: install
	$(BIN)/python -m benchmarks

study: install
	for sweep in $$($(BIN)/modesweep list sweeps --names); do $(BIN)/modesweep run $$sweep || exit 1; done
	$(BIN)/python -m studies

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

clean-results:
	git clean -fdX results
