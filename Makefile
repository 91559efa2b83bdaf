# Each verb does all of its own set-up: it needs Python 3.11 or newer with venv, git and make.
# Another Python: make test PYTHON=python3.13

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
BENCH_READY := .venv/.bench-ready
LITELLM := build/litellm
LITELLM_READY := $(LITELLM)/.ready
LITELLM_NEWEST := build/litellm-newest
LITELLM_NEWEST_READY := $(LITELLM_NEWEST)/.ready
ON_LIBRARIES := -k "litellm or openai-sdk or openai_sdk" \
	$(addprefix tests/runtime/llm/test_,litellm.py openai_sdk.py provider_conformance.py)
WORKFLOWS := build/workflows
WORKFLOWS_READY := $(WORKFLOWS)/.ready
RUNTIME := tests/app

# A machine may forbid .pyc files; everything measured here is about a warm start.
unexport PYTHONDONTWRITEBYTECODE VIRTUAL_ENV UV_PROJECT_ENVIRONMENT

.DEFAULT_GOAL := help
.PHONY: help demo test test-long test-power check format bench sample clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(READY) ## render an application, ask it two things, show its answers and its trace
	@$(BIN)/python scripts/demo.py

test: check $(LITELLM_READY) $(LITELLM_NEWEST_READY) $(WORKFLOWS_READY) ## everything: the checks, then the runtime, the renders and the updates (minutes)
	@echo "== tests of the providers on libraries: litellm as plain pip finds it, its proxy, openai 2"
	@$(LITELLM)/bin/pytest $(ON_LIBRARIES) tests/runtime/llm/test_litellm_proxy.py
	@echo "== tests of the providers on libraries: the newest litellm, openai 3"
	@$(LITELLM_NEWEST)/bin/pytest $(ON_LIBRARIES)
	@echo "== tests of the page on workflows, with dbos installed"
	@$(WORKFLOWS)/bin/pytest tests/workflows
	@echo "== tests of everything"
	@$(BIN)/pytest

test-long: $(READY) ## hunt for races and faults: far more of what `test` has a few of (an hour)
	@LLMGINE_TEST_LONG=1 $(BIN)/pytest --timeout 3600 tests/faults tests/runtime/llm/test_malformed.py \
		$(addprefix tests/runtime/bus/test_,state_machine.py simulation.py)

test-power: $(READY) ## cut the power of a small virtual machine while it works (needs qemu)
	@$(BIN)/python scripts/power.py $(ARGS)

check: $(READY) ## format, lint, types and imports, on the runtime as it lies and on a render
	@echo "== format and lint"
	@$(BIN)/ruff format --check --quiet . || { echo "Not formatted: make format"; exit 1; }
	@$(BIN)/ruff check --quiet --extend-exclude template/src .
	@$(BIN)/ruff check --quiet $(RUNTIME)
	@$(BIN)/python scripts/manifest.py --check
	@echo "== types: mypy and pyright, the runtime as it lies"
	@cd tests && ../$(BIN)/mypy -p app
	@cd tests && ../$(BIN)/pyright app
	@$(BIN)/mypy scripts tests/render tests/update
	@echo "== the imports of the runtime"
	@$(BIN)/pytest template/tests/llmgine
	@echo "== lint and types, a render"
	@$(BIN)/python scripts/check_render.py

format: $(READY) ## write what can be written: format, simple fixes, manifest, file list
	@$(BIN)/ruff check --quiet --fix-only --extend-exclude template/src .
	@$(BIN)/ruff check --quiet --fix-only $(RUNTIME)
	@$(BIN)/ruff format --quiet .
	@$(BIN)/python scripts/manifest.py
	@$(BIN)/python scripts/tree.py
	@$(BIN)/python scripts/conformance.py

# make bench ARGS="bus --write FILE" measures the bus only, and writes the tables into a page.
bench: $(BENCH_READY) $(LITELLM_READY) ## measure against the peers, side by side (minutes)
	@$(BIN)/python -m benchmarks $(ARGS)

sample: $(READY) ## render an application with the default answers into build/sample
	@rm -rf build/sample
	@$(BIN)/python scripts/rendering.py build/sample

clean: ## remove what the verbs above made
	@rm -rf .venv build

# An environment of its own for the tests, made again when this file or pyproject.toml changes.
$(READY): pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.13"; exit 1; }
	@echo "== set-up: .venv, once (about a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9,<1'
	@UV_COMPILE_BYTECODE=1 $(BIN)/uv pip install --quiet --python $(BIN)/python --group dev
	@touch $@

$(BENCH_READY): $(READY)
	@echo "== set-up: the peers, once"
	@UV_COMPILE_BYTECODE=1 $(BIN)/uv pip install --quiet --python $(BIN)/python --group bench
	@touch $@

# litellm lives apart: beside it, no test could tell how it goes without it.
$(LITELLM_READY): $(READY)
	@echo "== set-up: $(LITELLM), once"
	@test -x $(LITELLM)/bin/python || $(PYTHON) -m venv $(LITELLM)
	@UV_COMPILE_BYTECODE=1 $(BIN)/uv pip install --quiet --python $(LITELLM)/bin/python --group litellm
	@touch $@

# From 1.106.3 on litellm asks for a certifi that an index may not have yet; any of this year will do.
$(LITELLM_NEWEST_READY): $(READY)
	@echo "== set-up: $(LITELLM_NEWEST), once"
	@test -x $(LITELLM_NEWEST)/bin/python || $(PYTHON) -m venv $(LITELLM_NEWEST)
	@echo "certifi>=2026.1" > $(LITELLM_NEWEST)/overrides.txt
	@UV_COMPILE_BYTECODE=1 $(BIN)/uv pip install --quiet --python $(LITELLM_NEWEST)/bin/python \
		--group litellm-newest --override $(LITELLM_NEWEST)/overrides.txt || \
		{ echo "The package index gives no litellm of 1.109 or newer, or not what it needs."; exit 1; }
	@touch $@

# dbos lives apart as well: nothing here may come to need what it brings.
$(WORKFLOWS_READY): $(READY)
	@echo "== set-up: $(WORKFLOWS), once"
	@test -x $(WORKFLOWS)/bin/python || $(PYTHON) -m venv $(WORKFLOWS)
	@UV_COMPILE_BYTECODE=1 $(BIN)/uv pip install --quiet --python $(WORKFLOWS)/bin/python --group workflows
	@touch $@
