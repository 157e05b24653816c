# Needs Python 3.11 or newer and make; everything else is installed into .venv.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
SHELL := /bin/bash

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := $(patsubst %/pyproject.toml,%,$(sort $(wildcard libs/*/pyproject.toml services/*/pyproject.toml)))
PROJECTS := $(addsuffix /pyproject.toml,$(PACKAGES))

# uv reads neither pip's settings nor, by itself, the system's certificates: hand both on.
export UV_SYSTEM_CERTS ?= true
export UV_NO_PROGRESS ?= true
export UV_LINK_MODE ?= copy
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
ifdef PIP_EXTRA_INDEX_URL
export UV_INDEX ?= $(PIP_EXTRA_INDEX_URL)
endif
ifdef PIP_CERT
export SSL_CERT_FILE ?= $(PIP_CERT)
endif
UV = $(BIN)/uv --quiet
# $(call install,lock): exactly what the lock names, then our packages, editable; uv replaces pip, and wheels are trimmed.
install = export VIRTUAL_ENV=$(VENV); $(UV) pip sync --require-hashes $(1) \
	&& $(UV) pip uninstall pip setuptools && $(BIN)/python deploy/local/trim.py \
	&& $(UV) pip install --offline --no-deps --no-build-isolation $(addprefix -e ,$(PACKAGES))

# An option of a demo run: off when empty or 0.
flag = $(if $(filter-out 0,$($(1))),--$(2))

CHECKS := check-lint check-format check-types check-imports check-sizes check-declared check-schemas

.PHONY: help bootstrap dev demo up test check bench chaos schemas lock clean $(CHECKS)

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: bootstrap ## run the closed loop on real flights: DAYS=365, INJECT=1 (the truth changes), KILL=1 (everything is killed once)
	$(BIN)/tidemill demo $(if $(DAYS),--days $(DAYS)) $(call flag,INJECT,inject) $(call flag,KILL,kill)

up: bootstrap ## start Kafka, Postgres and the six services; stop with Ctrl-C
	$(BIN)/tidemill up

test: dev ## run the tests (under ten minutes)
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not chaos and not slow" $(ARGS)

check: dev ## run every static check, and all of them even if one fails
	@$(MAKE) --keep-going $(CHECKS)

check-lint:
	$(BIN)/ruff check .
check-format:
	$(BIN)/ruff format --check .
check-types:
	$(BIN)/mypy --exclude '(^|/)tests/(.*/)?conftest\.py$$' libs services tests deploy conftest.py $(wildcard benchmarks/*.py)
	@# Each package may have a conftest.py: the same name, so one at a time.
	@for file in $(wildcard libs/*/tests/conftest.py services/*/tests/conftest.py tests/*/conftest.py); do $(BIN)/mypy $$file || exit 1; done
check-imports:
	$(BIN)/lint-imports --no-logo
check-sizes:
	$(BIN)/python -m tidemill_testkit.checks.sizes
check-declared:
	$(BIN)/python -m tidemill_testkit.checks.declared
check-schemas:
	$(BIN)/python -m tidemill_runtime.schemas --check

bench: dev ## run the benchmarks, or ONLY=name; results in build/bench
	@mkdir -p build/bench
	@for file in $(if $(ONLY),benchmarks/$(subst -,_,$(ONLY)).py,$(sort $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py)))); do \
		echo "== $$file"; $(BIN)/python $$file || exit 1; done

chaos: dev ## kill and freeze everything, some minutes
	@$(BIN)/python -m pytest -m chaos $(ARGS)

schemas: dev ## write schemas/ anew from the code
	$(BIN)/python -m tidemill_runtime.schemas

lock: dev ## resolve the dependencies anew (UPGRADE=1: to the newest versions)
	$(BIN)/python -m tidemill_testkit.checks.requirements | $(BIN)/uv pip compile - $(COMPILE) -o requirements.lock
	$(BIN)/python -m tidemill_testkit.checks.requirements dev | $(BIN)/uv pip compile - $(COMPILE) -c requirements.lock -o requirements-dev.lock

COMPILE = --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	--custom-compile-command "make lock" $(call flag,UPGRADE,upgrade)

clean: ## remove the environment and everything built
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

bootstrap: $(VENV)/.base ## install what running needs into .venv

dev: $(VENV)/.dev ## install what developing needs into .venv

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Tidemill needs Python 3.11 or newer; set PYTHON=/path/to/it" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@# Only uv's own lines of the lock, so that pip checks its hashes too.
	@awk '/^[^ #]/ {mine = /^uv==/} mine' requirements.lock > $(VENV)/uv.txt
	@$(BIN)/python -m pip --quiet --disable-pip-version-check install --require-hashes -r $(VENV)/uv.txt

$(VENV)/.base: requirements.lock $(PROJECTS) | $(BIN)/uv
	@if test -e $(VENV)/.dev; then $(MAKE) $(VENV)/.dev; else \
		echo "installing what running needs"; $(call install,requirements.lock); fi
	@touch $@

$(VENV)/.dev: requirements.lock requirements-dev.lock $(PROJECTS) | $(BIN)/uv
	@echo "installing what developing needs"; $(call install,requirements-dev.lock)
	@touch $@
