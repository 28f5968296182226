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

help: ## List the targets
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(STAMP) ## Create .venv with everything installed (PYTHON=python3.13 chooses one)

$(STAMP): pyproject.toml requirements.lock scripts/setup.sh
	@PYTHON="$(PYTHON)" bash scripts/setup.sh $(VENV)
	@touch $@

lock: ## Rewrite requirements.lock from pyproject.toml (ARGS=--upgrade takes newer versions)
	$(BIN)/python scripts/lock.py $(ARGS)

audit: $(STAMP) ## Hold the lock against known vulnerabilities and pyproject.toml, without a network
	$(BIN)/python scripts/lock.py --check
	$(BIN)/python scripts/audit.py

gen: $(STAMP) ## Regenerate generated/, error classes, the synchronous client and docs/reference.md
	$(BIN)/python scripts/gen.py
	$(BIN)/python scripts/error_classes.py
	$(BIN)/python scripts/reference.py

check-gen: $(STAMP) ## Fail when generated code is stale
	$(BIN)/python scripts/gen.py --check
	$(BIN)/python scripts/error_classes.py --check
	$(BIN)/python scripts/reference.py --check

format: $(STAMP) ## Format Python and protos
	$(BIN)/ruff check --quiet --select I --fix .
	$(BIN)/ruff format .
	$(BIN)/buf format -w --path protos/maitred

lint: $(STAMP) ## Ruff, import directions, contract style and compatibility with main
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/buf lint
	$(BIN)/buf format -d --exit-code --path protos/maitred
	@if git rev-parse --quiet --verify main:protos/maitred >/dev/null 2>&1; then \
		echo "buf breaking against main" && $(BIN)/buf breaking --against '.git#branch=main'; \
	else echo "buf breaking: skipped, no branch main with protos here"; fi

types: $(STAMP) ## Type-check with mypy, strict
	$(BIN)/mypy

test: $(STAMP) ## Run the tests (ARGS="-k tips" narrows them)
	$(PYTEST) -n auto $(ARGS)

tools: $(STAMP) ## Fetch what some tests stand on: grpcurl (with Go), emulate (with npm)
	@bash scripts/tools.sh
	@bash scripts/emulate.sh

check-mutants: $(STAMP) ## Fail when a seeded fault no longer fits the code
	$(BIN)/python scripts/mutants.py --check

languages: $(STAMP) ## Generate the contract for Go and build it, where Go is present
	@bash scripts/languages.sh

check: tools audit check-gen lint types test check-wheel ## What CI runs, in its order

run: $(STAMP) ## Serve on 127.0.0.1:50051 with an embedded SQLite file
	$(BIN)/maitred serve $(ARGS)

demo: $(STAMP) ## A guest orders, tips and pays against a server started for it
	$(BIN)/python scripts/demo.py $(ARGS)

bench: $(STAMP) ## Benchmarks, side by side (JSON=FILE keeps the numbers)
	$(BENCH) $(ARGS)

bench-quick: $(STAMP) ## The same, in about four minutes
	$(BENCH) --quick $(ARGS)

campaign: $(STAMP) ## Fault campaign: kill, cut and repeat, then count what was lost
	$(BIN)/python -m tests.campaigns $(ARGS)

mutants: $(STAMP) ## Break the code on purpose and count the tests that notice
	$(BIN)/python scripts/mutants.py $(ARGS)

build: $(STAMP) ## Wheel and source distribution in dist/
	$(BIN)/python -m build --no-isolation --outdir dist .

check-wheel: $(STAMP) ## Import the client from the built wheel in a clean environment
	@bash scripts/check_wheel.sh $(VENV)
