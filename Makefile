# One command for each thing. `make` alone lists them.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made-from-lock
ARGS ?=
# A demo is a dozen processes, a run of the tests hundreds: what the first one compiled
# serves the others, also where the environment says that nothing is to be kept.
unexport PYTHONDONTWRITEBYTECODE
# A file of tests stays on one core: what its tests share is made once.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup demo test check serve fix bench bench-log

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv, with the command .venv/bin/errand

demo: $(STAMP) ## Run a newborn's case through seven departments, and check all of it
	@$(BIN)/errand demo $(ARGS)

test: $(STAMP) ## Run the tests
	@$(PYTEST) $(ARGS)

check: $(STAMP) ## Lint, format, types, import contracts, tests: what CI runs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) $(ARGS)

serve: $(STAMP) ## Run the gateway and the demo's departments until Ctrl-C
	@$(BIN)/errand demo --serve $(ARGS)

fix: $(STAMP) ## Repair what lint and format can repair by themselves
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## Measure a case against an ungoverned fan-out and the floor
	@$(BIN)/python -m bench $(ARGS)

bench-log: $(STAMP) ## Measure the access log on both engines, and draw the curves
	@$(BIN)/python -m bench.log $(ARGS)

# The stamp is a copy of the lock: .venv is made anew only when the lock has changed,
# whatever the files' times say.
$(STAMP): FORCE
	@cmp -s requirements.lock $@ || ./.ci/make-venv $(VENV) $@

.PHONY: FORCE
FORCE:
