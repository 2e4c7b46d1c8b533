# Targets are listed by `make help`. PYTHON and PORT may be given: `make serve PORT=9000`.

# The first interpreter that starts, is new enough and can make a virtual environment; a name on PATH may be a shim for nothing.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
NPM := $(shell command -v npm)
PORT ?= 8000
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: help serve test check format-check lint types javascript format bench image-check clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 17

serve: .venv/runtime ## pull MiniLM and serve it, and the models that come with kqv, on 127.0.0.1:PORT
	$(BIN)/kqv pull minilm
	@echo 'kqv: http://127.0.0.1:$(PORT), its API described at http://127.0.0.1:$(PORT)/docs; Ctrl-C stops it'
	KQV_MODELS=minilm,mini-bert,mini-gpt,mini-t5 $(BIN)/kqv serve --host 127.0.0.1 --port $(PORT)

test: .venv/dev ## run the tests, those of the documentation too
	-for model in minilm smollm2 ruaccent; do $(BIN)/kqv pull $$model; done # without them, tests of real weights are skipped
	$(BIN)/pytest

check: format-check lint types javascript test ## everything that a change must pass

format-check: .venv/dev ## is every file formatted?
	$(BIN)/ruff format --check

lint: .venv/dev ## ruff's rules
	$(BIN)/ruff check

types: .venv/dev ## mypy, strictly
	$(BIN)/mypy

javascript: ## format, lint and types of the dashboard, where there is npm
ifeq ($(NPM),)
	@echo "no npm here: the dashboard's JavaScript is not checked" >&2; test -z "$$KQV_REQUIRE_TOOLS"
else
	@$(MAKE) --no-print-directory node_modules/installed
	node_modules/.bin/biome check --error-on-warnings
	node_modules/.bin/tsc
endif

# Each pinned exactly, and none needs others: so there is no lock file.
node_modules/installed: package.json
	$(NPM) install --no-package-lock --no-audit --no-fund --loglevel=error
	@touch $@

format: .venv/dev ## format the code and fix what ruff can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	test ! -e node_modules/installed || node_modules/.bin/biome check --write

bench: .venv/dev ## measure kqv against the plain thing
	$(BIN)/python -m benchmarks

image-check: ## build the image without a container engine, and run its server as it says (root, buildah, debootstrap)
	deploy/check_image.sh

clean: ## remove the virtual environment and every cache
	rm -rf .venv node_modules .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@test -n '$(PYTHON)' || { echo 'kqv needs Python 3.11 or newer, with venv; name one: make PYTHON=/path/to/python' >&2; exit 1; }
	$(PYTHON) -m venv .venv

# Stamps: installed once, and again only when what is to be installed changes. The dev extra includes the runtime. The generator of
# clients can't be in it: it refuses the newest typer, with which it works.
.venv/runtime: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) .
	@touch $@

.venv/dev: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) '.[dev]'
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --no-deps openapi-python-client
	@touch .venv/runtime $@
