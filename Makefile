SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
export ISDH_PREFECT_PORT ?= 4200
export ISDH_MLFLOW_PORT ?= 5000
export ISDH_SEARCH_PORT ?= 8000
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONPATH :=

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sort | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: .venv/installed ## create .venv and install the locked versions

.venv/installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: $$($(PYTHON) --version): want Python 3.11 or later; set PYTHON=" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint requirements.lock --editable '.[dev]'
	@touch $@

demo: setup ## run the main job on the built-in dataset and open on a report
	@$(BIN)/python -m flows

test: setup ## run all tests, a file to a process, one process more than cores: tests wait, too
	@$(BIN)/python -m pytest -n $$($(BIN)/python -c 'import os; print(min(len(os.sched_getaffinity(0)) + 1, 5))') \
	  --dist loadfile --no-loadscope-reorder

up: setup ## start Prefect server and worker, the schedules, MLflow and search on loopback
	@$(BIN)/python -m flows.operations up

down: ## stop what `make up` started
	@$(BIN)/python -m flows.operations down

trigger: setup ## run the scheduled job now, while `make up` runs
	@PREFECT_HOME='$(CURDIR)/.isdh/prefect' \
	  PREFECT_API_URL=http://127.0.0.1:$(ISDH_PREFECT_PORT)/api \
	  $(BIN)/prefect deployment run pipeline/nightly --watch

check: setup ## formatting, lint, types, architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: setup ## format the code and mend what ruff can
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

bench: setup ## measure the histogram kernel and the demo; results go to benchmarks/results
	$(BIN)/python benchmarks/bench_histogram.py
	$(BIN)/python benchmarks/bench_demo.py

clean: ## remove what was made, but not raw pictures, weights, dvc.lock or MLflow's records
	@test ! -e .isdh/services.json || { echo 'error: servers run; `make down` first' >&2; exit 2; }
	rm -rf data models codes metrics reports .isdh .mypy_cache .ruff_cache .pytest_cache

.PHONY: help setup demo test up down trigger check format bench clean
