# Every target sets up what it needs: `make run` and `make test` work in a fresh clone.
PYTHON  ?=
VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.stamp
JSON    ?=
ARGS    ?=
PYTEST  := $(BIN)/python -m pytest
BENCH   := $(BIN)/python -m benchmarks $(if $(JSON),--json $(JSON))

.DEFAULT_GOAL := help
.PHONY: help setup lock audit tools gen check-gen format lint types test check run demo bench bench-quick campaign \
	mutants check-mutants build check-wheel languages

help: ## List targets
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(STAMP) ## Create .venv with all dependencies (PYTHON=python3.13 selects the interpreter)

$(STAMP): pyproject.toml requirements.lock scripts/setup.sh
	@PYTHON="$(PYTHON)" bash scripts/setup.sh $(VENV)
	@touch $@

lock: ## Update requirements.lock from pyproject.toml (ARGS=--upgrade for newer versions)
	$(BIN)/python scripts/lock.py $(ARGS)

audit: $(STAMP) ## Check the lock file against pyproject.toml and known vulnerabilities, offline
	$(BIN)/python scripts/lock.py --check
	$(BIN)/python scripts/audit.py

gen: $(STAMP) ## Regenerate generated/, error classes, the blocking client and docs/reference.md
	$(BIN)/python scripts/gen.py
	$(BIN)/python scripts/error_classes.py
	$(BIN)/python scripts/reference.py

check-gen: $(STAMP) ## Fail if generated files are stale
	$(BIN)/python scripts/gen.py --check
	$(BIN)/python scripts/error_classes.py --check
	$(BIN)/python scripts/reference.py --check

format: $(STAMP) ## Format Python and protos
	$(BIN)/ruff check --quiet --select I --fix .
	$(BIN)/ruff format .
	$(BIN)/buf format -w --path protos/maitred

lint: $(STAMP) ## Check code style, imports, and contract style and compatibility
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/buf lint
	$(BIN)/buf format -d --exit-code --path protos/maitred
	@if git rev-parse --quiet --verify main:protos/maitred >/dev/null 2>&1; then \
		echo "buf breaking against main" && $(BIN)/buf breaking --against '.git#branch=main'; \
	else echo "buf breaking: skipped, no branch main with protos here"; fi

types: $(STAMP) ## Type-check with mypy
	$(BIN)/mypy

test: $(STAMP) ## Run the tests (ARGS="-k tips" selects some)
	$(PYTEST) -n auto $(ARGS)

tools: $(STAMP) ## Install tools that some tests use: grpcurl (needs Go), emulate (needs npm)
	@bash scripts/tools.sh
	@bash scripts/emulate.sh

check-mutants: $(STAMP) ## Fail if a seeded bug no longer applies to the code
	$(BIN)/python scripts/mutants.py --check

languages: $(STAMP) ## Generate Go code from the contract and build it, if Go is installed
	@bash scripts/languages.sh

check: tools audit check-gen lint types check-mutants test check-wheel ## Everything CI runs, in the same order

run: $(STAMP) ## Start a server on 127.0.0.1:50051 with an embedded SQLite file
	$(BIN)/maitred serve $(ARGS)

demo: $(STAMP) ## Play a guest who orders, tips and pays, against a server of its own
	$(BIN)/python scripts/demo.py $(ARGS)

bench: $(STAMP) ## Run the benchmarks (JSON=FILE saves the results)
	$(BENCH) $(ARGS)

bench-quick: $(STAMP) ## Run shorter benchmarks, in about four minutes
	$(BENCH) --quick $(ARGS)

campaign: $(STAMP) ## Kill and disconnect servers under load, then count lost writes
	$(BIN)/python -m tests.campaigns $(ARGS)

mutants: $(STAMP) ## Seed bugs into the code and check that tests catch them
	$(BIN)/python scripts/mutants.py $(ARGS)

build: $(STAMP) ## Build the wheel and source distribution in dist/
	$(BIN)/python -m build --no-isolation --outdir dist .

check-wheel: $(STAMP) ## Test the built wheel in a clean environment
	@bash scripts/check_wheel.sh $(VENV)
