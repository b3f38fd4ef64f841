# Every command installs or builds what it needs, once, into a cache outside the checkout.
SHELL := /bin/bash -euo pipefail
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

export SLIPWAY_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/slipway
export PYTHONPATH := operator:runtime
UV   := $(SLIPWAY_CACHE)/uv-$(shell sha256sum locks/uv.txt | cut -c1-12)
VENV := $(SLIPWAY_CACHE)/venv-$(shell sha256sum locks/dev.txt | cut -c1-12)
BIN  := $(VENV)/bin
export UV_CACHE_DIR := $(SLIPWAY_CACHE)/uv-cache

help: ## this list
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(UV)/done: locks/uv.txt
	@python3 -m venv $(UV)
	@$(UV)/bin/pip install --quiet --require-hashes -r locks/uv.txt
	@touch $@

$(VENV)/done: locks/dev.txt $(UV)/done
	@echo "installing the locked development environment (torch is large) ..."
	@$(UV)/bin/uv venv --quiet --allow-existing --python 3.11 $(VENV)
	@$(UV)/bin/uv pip install --python $(BIN)/python --require-hashes -r locks/dev.txt
	@touch $@

venv: $(VENV)/done ## the development environment; prints where it is
	@echo $(VENV)

LOCK := $(UV)/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet
lock: $(UV)/done ## resolve the locked versions anew
	@echo 'torch>=2.10' | $(LOCK) - -o locks/torch.txt
	@$(LOCK) pyproject.toml --extra dev -c locks/torch.txt -o locks/dev.txt
	@$(LOCK) pyproject.toml --extra runtime -c locks/dev.txt -o locks/runtime.txt
	@$(LOCK) pyproject.toml --extra operator -c locks/dev.txt -o locks/operator.txt

.PHONY: help venv lock
