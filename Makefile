# Everything is installed into .venv, from wheels alone. Another Python: make PYTHON=python3.13 demo

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MINILM := $(VENV)/minilm/model.safetensors
# Nothing but the project itself comes from source, and that is pure Python.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all:
WORKERS ?= auto
PEERS ?= .venv-peers/bin/python
# Where it is set, each start of the filter would compile our source anew: 60 ms instead of 35.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-deep check bench bench-spine peers reliability docs site recording release-check changelog clean

help: ## say what there is to make
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | sort | while IFS="$$(printf '\t')" read -r target text; do \
	  printf '  make %-13s  %s\n' "$$target" "$$text"; done

demo: $(VENV)/installed $(MINILM) ## put real weights through add, push, clone and checkout (2 minutes at most)
	@$(BIN)/python -m gitbridge.demo $(MINILM)

test: $(VENV)/installed-dev $(VENV)/node/installed ## run the tests that every change must pass
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadgroup -m 'not deep'

test-deep: $(VENV)/installed-dev $(VENV)/node/installed ## run all tests, the long ones too
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadgroup

check: $(VENV)/installed-dev ## lint, formatting, types, and which module may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/installed-bench $(MINILM) ## measure against peers, and write docs/benchmarks.md; ARGS='--only "chain bf16"'
	$(BIN)/python -m benchmarks.peers --minilm $(MINILM) --peers-python $(PEERS) $(ARGS)
	-$(BIN)/python -m benchmarks.scale --rounds 5 --json benchmarks/results/scale.json
	$(BIN)/python -m benchmarks.peers.document

bench-spine: $(VENV)/installed-dev $(MINILM) ## measure add and checkout against git-lfs and cp; ARGS='--only add --size-mb 400'
	$(BIN)/python -m benchmarks.spine --minilm $(MINILM) $(ARGS)

reliability: $(VENV)/installed-dev ## try every fault at every place, and write docs/reliability.md (10 minutes)
	$(BIN)/python -m benchmarks.reliability

docs: $(VENV)/installed ## write the reference of commands and settings, manual pages and diagrams, from the code
	$(BIN)/python docs/make_reference.py
	$(BIN)/python docs/pictures/make_diagrams.py

site: $(VENV)/installed-docs ## build the site of the documentation into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

recording: $(VENV)/installed $(MINILM) ## draw the demo anew, as README shows it
	$(BIN)/python examples/record.py docs/pictures/demo.svg $(BIN)/python -m gitbridge.demo $(MINILM)

peers: ## install what bench compares with: zipnn, git-theta of PyPI, torch to train versions (4 GB, a compiler)
	@$(PYTHON) -m venv .venv-peers
	-.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check numcodecs zstandard zipnn
	-.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check git-theta

release-check: $(VENV)/installed $(MINILM) ## build wheel and sdist, and run the demo from each in an environment of its own
	@$(PIP_INSTALL) 'build>=1.2'
	$(BIN)/python tests/release/check.py $(MINILM)

changelog: $(VENV)/installed ## put the notes of changes/ into CHANGELOG.md; VERSION=1.0.0
	@test -n '$(VERSION)' || { echo 'error: which version? try: make changelog VERSION=1.0.0' >&2; exit 1; }
	$(BIN)/python changes/collect.py $(VERSION)

clean: ## remove .venv and what tools left behind
	rm -rf $(VENV) .venv-peers build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

# A venv without pip (Debian without python3-venv leaves one) is removed, so that the next call starts afresh.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is missing or older than 3.11; try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@command -v git >/dev/null || { echo "error: git is missing; try: apt-get install git" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) >$(VENV).log 2>&1 && $(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  cat $(VENV).log >&2; rm -rf $(VENV) $(VENV).log; \
	  echo "error: $(PYTHON) cannot make a virtual environment with pip; try: apt-get install python3-venv" >&2; exit 1; }
	@rm -f $(VENV).log

$(VENV)/installed: pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV) ..."
	@$(PIP_INSTALL) -e .
	@mkdir -p $(VENV)/share/man/man1 && ln -sf '$(CURDIR)'/docs/man/*.1 $(VENV)/share/man/man1/
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV), with the tools for tests and checks ..."
	@$(PIP_INSTALL) -e '.[test,check]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-docs: pyproject.toml | $(BIN)/python
	@$(PIP_INSTALL) -e '.[docs]'
	@touch $@

$(VENV)/installed-bench: pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV), with what benchmarks need ..."
	@$(PIP_INSTALL) -e '.[test,bench]'
	@touch $@

# Servers that only npm has. Without node, or the registry, the tests that need them are skipped (in CI: they fail).
$(VENV)/node/installed: | $(BIN)/python
	@mkdir -p $(VENV)/node
	@command -v npm >/dev/null || exit 0; echo "installing azurite and s3rver into $(VENV)/node ..."; \
	  npm install --silent --no-audit --no-fund --prefix $(VENV)/node azurite@3 s3rver@3 || [ -z "$$CI" ] && touch $@

$(MINILM): | $(BIN)/python
	@echo "fetching the weights of all-MiniLM-L6-v2 (84 MB) ..."
	@$(BIN)/python gitbridge/demo/minilm.py $@
