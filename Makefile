# One word a chore, the same for people and for CI. `make` alone lists them.
VENV := .venv
BIN := $(VENV)/bin
PYTHON := $(BIN)/python
READY := $(VENV)/.ready
TESTS := clients/python/tests server/tests tests
TYPED := clients/python/src server/src
SHAPED := clients server tests bench demo examples packaging

export PIP_DISABLE_PIP_VERSION_CHECK := 1
MAKEFLAGS += --no-print-directory

.DEFAULT_GOAL := help
.PHONY: help demo test check bench chaos fuzz dist lock format

help: ## List these words
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## Play the main job with real processes: traffic, outage, crash, deploy; then compare all accounts
	@$(PYTHON) -m demo

test: $(READY) ## Run every test (as root, Debian's chromium is installed first for the browser tests)
	@tests/prepare
	@$(PYTHON) -m pytest -q $(TESTS)

check: $(READY) ## Check shape, faults and types, without running anything
	@.ci/check

bench: $(READY) ## Measure, and print the tables
	@$(PYTHON) -m bench

chaos: $(READY) ## Kill, stop and cheat everything for CHAOS_SECONDS (300), on CHAOS_PATH (all in turn); CHAOS_SEED repeats
	@$(PYTHON) -m tests.oracle --path $${CHAOS_PATH:-all} --seconds $${CHAOS_SECONDS:-300} --cycles $${CHAOS_CYCLES:-0} $${CHAOS_SEED:+--seed $$CHAOS_SEED}

fuzz: $(READY) ## Throw damaged input at every decoder, for FUZZ_SECONDS (default 60) each
	@FUZZ_SECONDS=$${FUZZ_SECONDS:-60} $(PYTHON) -m pytest -q -o timeout=0 tests/fuzz

dist: $(READY) ## Build both wheels into dist/, and try them in a fresh environment
	@packaging/dist

lock: $(READY) ## Choose the newest allowed versions anew, and write requirements/*.txt with hashes
	@requirements/lock

format: $(READY) ## Put the code into shape, and write the generated pages anew
	@$(BIN)/ruff format -q $(SHAPED)
	@$(BIN)/ruff check -q --fix $(SHAPED)
	@$(PYTHON) -m sendoff_server.settings sample > packaging/sendoff.toml
	@$(PYTHON) -m sendoff_server.settings page docs/configuration.md
	@$(PYTHON) -m sendoff_server.cli.reference docs/commands.md

$(READY): requirements/dev.txt clients/python/pyproject.toml server/pyproject.toml .ci/venv
	@.ci/venv $(VENV)
	@touch $@
