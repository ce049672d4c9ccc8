# Everything runs in .venv, made on first use from pyproject.toml and constraints.txt.
PYTHON ?= python3
VENV ?= .venv
# Processes of the fast tests; each test uses one thread.
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test system test-slow check format bench clean

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## Create the environment and install dtme-search with its development tools

# The stamp is written last: an install that was broken off is done again.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dtme-search needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@echo "Installing into $(VENV): PyTorch is large, a first time takes minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup ## Search on built-in scenes: baselines, trials, the front (minutes on two cores)
	$(BIN)/dtme-search optimize --study demo
	$(BIN)/dtme-search show --study demo

test: setup system ## Fast tests
	$(BIN)/python -m pytest -m 'not slow' -n $(JOBS) --dist loadscope

# What tests use where it is there: a browser that opens pages, and MariaDB, of which they start a server of their
# own. Root gets both (no package here starts a service); where one is missing its tests are skipped and say so.
system:
	@$(call need,chromium chromium-browser google-chrome,chromium,Tests that open pages)
	@$(call need,mariadbd,mariadb-server-core mariadb-client-core,Tests on MariaDB)

# $(call need,COMMANDS OF WHICH ONE WILL DO,DEBIAN PACKAGES,WHAT IS SKIPPED WITHOUT)
define need
PATH="$$PATH:/usr/sbin"; $(foreach name,$(1),command -v $(name) >/dev/null ||) { \
  [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
  { apt-get -qq update && apt-get -qq install -y --no-install-recommends $(2); } >/dev/null 2>&1; } || \
  echo "$(3) are skipped: there is no $(firstword $(1))."
endef

test-slow: setup system ## Tests that train for real or start many processes
	$(BIN)/python -m pytest -m 'slow and not apart'
	$(BIN)/python -m pytest -m 'slow and apart'

check: setup ## Lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: setup ## Format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup ## Benchmarks, each a ratio within one run
	@for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

clean: ## Remove the environment, caches and builds; studies under dtme-runs/ stay
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find dtme_search tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
