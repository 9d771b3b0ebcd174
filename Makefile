# Everything is set up in .venv, once, from the hash-pinned requirements.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NODE := tests/e2e/node

.PHONY: demo test node fuzz bench coverage check format run lock clean help

help: ## show the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(STAMP): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "wholestream needs Python >= 3.11; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP) ## see it work on an embedded, misbehaving upstream
	$(BIN)/wholestream demo

test: $(STAMP) node ## run all tests
	@test -d $(NODE)/node_modules/openai || set -- -m "not node"; \
		$(BIN)/python -m pytest "$$@" $(ARGS)

# Node is not needed for anything but its own tests: without npm, or its index, they are left out.
node:
	@test -d $(NODE)/node_modules/openai || \
		(cd $(NODE) && npm install --silent --no-audit --no-fund --ignore-scripts \
			--no-package-lock --engine-strict=false) || \
		echo "LEFT OUT: the tests with the SDK for Node; npm could not install it"

# There are wheels of atheris for some machines only; building it takes a compiler that few have.
SECONDS ?= 60
FUZZ ?= --seconds $(SECONDS)
fuzz: $(STAMP) ## look for bytes that break a property, for SECONDS=60
	@if $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/fuzz.txt; \
		then $(BIN)/python tests/fuzz/coverage_guided.py $(FUZZ); \
		else echo "LEFT OUT: the coverage-guided run; atheris could not be installed"; fi

# Peers that are not installed are left out; BENCH=--help shows what can be chosen.
bench: $(STAMP) ## compare the cost with nginx, HAProxy and Envoy, BENCH="--quick"
	$(BIN)/python -m bench $(BENCH)

coverage: $(STAMP) ## run all tests, show what they do not reach
	$(BIN)/python -m coverage erase
	COVERAGE_PROCESS_START=pyproject.toml $(BIN)/python -m pytest --cov --cov-report=term-missing $(ARGS)

check: $(STAMP) ## format, lint, types, layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/test_layers.py

format: $(STAMP) ## format and mend what can be mended
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

run: $(STAMP) ## run the proxy with your environment's settings
	$(BIN)/wholestream serve

lock: $(STAMP) ## renew the pinned requirements
	$(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --no-emit-index-url \
		--no-emit-trusted-host --no-emit-find-links --upgrade --extra dev -o requirements/dev.txt pyproject.toml
	$(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --no-emit-index-url \
		--no-emit-trusted-host --no-emit-find-links --upgrade -o requirements/run.txt pyproject.toml
	$(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --no-emit-index-url \
		--no-emit-trusted-host --no-emit-find-links --pip-args '--only-binary=:all:' --upgrade \
		-o requirements/fuzz.txt requirements/fuzz.in
	$(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --no-emit-index-url \
		--no-emit-trusted-host --no-emit-find-links --pip-args='--only-binary=:all:' --upgrade \
		-o requirements/bench.txt requirements/bench.in

clean: ## remove what was installed and cached
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage* dist build $(NODE)/node_modules
