# Two commands do all the set-up: `make run` and `make test`. Both need Python 3.11+ and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
ARGS ?=
# Three processes suit two cores, as tests wait much; each test brings its own ports, stream and database.
PYTEST_WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help run test test-system bench bench-quick check docs format lock wheel clean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.run ## A simulated town on an embedded broker, with curl lines to paste (ARGS="--rate 5" and so on)
	@exec $(BIN)/passline demo $(ARGS)

test: $(VENV)/.dev tests/interop/node_modules/.done ## All tests that need only Python and wheels
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) -m "not system" $(ARGS)

test-system: $(VENV)/.dev ## Tests that need Debian packages (Chromium); installs them, as root
	deploy/install-test-packages
	$(BIN)/python -m pytest -m system $(ARGS)

bench: $(VENV)/.dev ## What it costs, beside what else would do it: 15 minutes; installs Debian packages, as root
	deploy/install-bench-packages
	@mkdir -p build
	$(BIN)/python -m bench --json build/bench.json --markdown build/bench.md $(ARGS)

bench-quick: $(VENV)/.dev ## The same with fewer runs and smaller sizes: 2 minutes
	deploy/install-bench-packages
	$(BIN)/python -m bench --quick $(ARGS)

check: $(VENV)/.dev ## Lint, types, import rules, generated documents
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/passline schema topics | diff -u docs/topics.md - # else: make docs

docs: $(VENV)/.dev ## Write docs/topics.md anew, from the code
	$(BIN)/passline schema topics > docs/topics.md.new
	@mv docs/topics.md.new docs/topics.md

format: $(VENV)/.dev ## Mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(VENV)/.dev ## Resolve the exact dependencies anew (needs uv)
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	  --no-emit-index-url --no-emit-find-links --upgrade -q -o requirements/run.lock
	uv pip compile pyproject.toml --group dev -c requirements/run.lock --universal --python-version 3.11 --generate-hashes \
	  --no-annotate --no-header --no-emit-index-url --no-emit-find-links -q -o requirements/dev.lock

wheel: $(VENV)/.dev ## Build the distribution into dist/
	$(BIN)/python -m pip wheel --no-deps --no-build-isolation -q -w dist .

clean: ## Remove what the other commands made, the demo's data included
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis passline-data test-artifacts tests/interop/node_modules

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements/run.lock pyproject.toml | $(VENV)/bin/python
	$(PIP) install -q --require-hashes -r requirements/run.lock
	$(PIP) install -q --no-deps -e .
	@touch $@

$(VENV)/.dev: requirements/dev.lock pyproject.toml | $(VENV)/bin/python
	$(PIP) install -q --require-hashes -r requirements/dev.lock
	$(PIP) install -q --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.run

tests/interop/node_modules/.done: tests/interop/package.json tests/interop/package-lock.json $(VENV)/.dev
	cd tests/interop && ../../$(BIN)/npm ci --no-audit --no-fund --loglevel=error
	@touch $@
