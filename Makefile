# Each target does its own set-up; Python 3.11+ and make are all it needs.
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv pip
export UV_PYTHON := $(BIN)/python
export UV_NO_PROGRESS := 1

.PHONY: help setup demo test lint bench openapi lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: .venv/.setup  ## build .venv (runtime and sandbox) and put `reelgate` into .venv/bin

.venv/.bootstrap: requirements-bootstrap.txt
	@$(PYTHON) -c 'import sys; sys.exit("Reelgate needs Python 3.11 or newer; try make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv .venv || { echo "python venv support is missing; on Debian: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bootstrap.txt
	@touch $@

.venv/.setup: .venv/.bootstrap requirements-sandbox.txt pyproject.toml
	@$(UV) install --quiet --require-hashes -r requirements-sandbox.txt
	@$(UV) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.dev: .venv/.setup requirements-dev.txt
	@$(UV) install --quiet --require-hashes -r requirements-dev.txt
	@touch $@

demo: .venv/.setup  ## run the main job: five vendor endpoints, five playable files in ./demo/ (KEEP=1 leaves it running)
	@$(BIN)/reelgate demo $(if $(KEEP),--keep)

lock:  ## renew the hash-locked requirements from pyproject.toml
	@for what in "requirements.txt" "requirements-sandbox.txt --extra sandbox" "requirements-dev.txt --extra sandbox --group dev"; do \
	  set -- $$what; file=$$1; shift; \
	  $(UV) compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url "$$@" pyproject.toml -o $$file; done
	@$(UV) compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --group bootstrap -o requirements-bootstrap.txt
