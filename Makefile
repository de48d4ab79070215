# Each target does its own set-up; Python 3.11+ and make are all it needs.
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv pip
export UV_PYTHON := $(BIN)/python
export UV_NO_PROGRESS := 1

# program:package of what the tests use from Debian; where one is absent, its tests are skipped by name.
TOOLS := prometheus:prometheus promtool:prometheus curl:curl node:nodejs npm:npm nginx:nginx systemd-analyze:systemd
APT := apt-get install --no-install-recommends

MUTANTS := .venv/mutants
# Of a hundred mutants so many must be noticed.
MUTATION_SCORE := 80

.PHONY: help setup demo test test-long tools lint audit sbom clients simulate planted crash-points kills zombies replicas races restarts reloads soak fuzz mutants image-steps bench bench-peers overload boards reference pictures openapi lock

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: .venv/.setup  ## build .venv (runtime and sandbox) and put `reelgate` into .venv/bin

.venv/.bootstrap: requirements-bootstrap.txt
	@$(PYTHON) -c 'import sys; sys.exit("Reelgate needs Python 3.11 or newer; try make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	@$(PYTHON) -c 'import ensurepip' 2> /dev/null || { echo "python venv support is missing; on Debian: apt-get install python3-venv"; exit 1; }
	@$(PYTHON) -m venv .venv
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

# Four workers on two cores, too: many tests wait for other processes. Bytecode is kept whatever the environment says:
# without it every worker and every gateway that a test starts compiles all that it imports.
test: .venv/.dev tools  ## run the tests for every day: all that are not marked `long`
	@PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --numprocesses 4 --dist worksteal -m 'not long'

# By file, in their order: what is dear to make is made once for a file, and campaigns, which wait most, begin early.
test-long: .venv/.dev tools  ## run the others: campaigns, kills, a real Prometheus, planted secrets, more seeds and cells
	@PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder -m long

# As root on Debian what is missing is installed; elsewhere, and whenever that fails, the command is printed and the tests go on.
# A package's own daemon is switched off again: the tests start their own.
tools:
	@missing=$$(for pair in $(TOOLS); do command -v $${pair%%:*} >/dev/null || echo $${pair##*:}; done | sort -u | tr '\n' ' '); \
	[ -n "$$missing" ] || exit 0; \
	if [ "$$(id -u)" = 0 ] && [ -e /etc/debian_version ] && command -v apt-get >/dev/null; then \
	  echo "installing $$missing(for the tests)"; \
	  { timeout 120 apt-get update -qq && DEBIAN_FRONTEND=noninteractive timeout 240 $(APT) -y -qq $$missing; } >/dev/null 2>&1; \
	  failed=$$?; \
	  if [ -d /run/systemd/system ]; then systemctl disable --quiet --now $$missing 2>/dev/null; fi; \
	  [ $$failed -ne 0 ] || exit 0; \
	fi; \
	echo "some tests will be skipped; to run them: $(APT) $$missing"

lint: .venv/.dev  ## rules, types, the arrows between the rooms, and known vulnerabilities
	@$(BIN)/ruff check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m tests.supply audit

audit: .venv/.dev  ## ask whether anything is known against what is installed; without a network it says so and passes
	@$(BIN)/python -m tests.supply audit

sbom: .venv/.dev  ## write the bill of materials of the default installation, dist/sbom.cdx.json (CycloneDX), from the lock
	@mkdir -p dist && $(BIN)/python -m tests.supply sbom dist/sbom.cdx.json

simulate: .venv/.dev  ## whole lives in virtual time: SEEDS=1000 of them, or SEED=k again with its trace
	@$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),1000))

planted: .venv/.dev  ## plant each deliberate bug, and tell the seed of the simulation that finds it
	@$(BIN)/python -m tests.simulation --planted

crash-points: .venv/.dev  ## kill -9 a real gateway at every point of a life, on both databases, and tell each
	@REELGATE_KILL_POINTS=all $(BIN)/pytest tests/kill --numprocesses auto --maxprocesses 4 --dist worksteal -rP

kills: .venv/.dev  ## kill -9 a real gateway N=100 times at random under load
	@$(BIN)/python -m tests.campaigns kills --size $(or $(N),100)

zombies: .venv/.dev  ## stop a real gateway N=50 times for longer than its patience, and let it go on
	@$(BIN)/python -m tests.campaigns zombies --size $(or $(N),50)

replicas: .venv/.dev  ## two and three replicas on one PostgreSQL through N=200 kills, pauses, cuts and restarts of the database
	@$(BIN)/python -m tests.campaigns replicas --size $(or $(N),200)

races: .venv/.dev  ## N=3000 creates race for caps at three replicas on one PostgreSQL, and SIMULATED=100000 in memory
	@$(BIN)/python -m tests.campaigns races --size $(or $(N),3000)
	@$(BIN)/python -m tests.campaigns simulated-races --size $(or $(SIMULATED),100000)

restarts: .venv/.dev  ## SIGTERM a real gateway N=100 times under load
	@$(BIN)/python -m tests.campaigns restarts --size $(or $(N),100)

reloads: .venv/.dev  ## change the configuration of a real gateway N=60 times under load, by SIGHUP and by itself
	@$(BIN)/python -m tests.campaigns reloads --size $(or $(N),60)

soak: .venv/.dev  ## MINUTES=10 of load with faults, restarts and kills, watching for leaks
	@$(BIN)/python -m tests.campaigns soak --size $(or $(MINUTES),10)

fuzz: .venv/.dev  ## N=1000000 mutated inputs through every parser, and HTTP=20000 requests to a real gateway; SEED=k for others
	@$(BIN)/python -m tests.fuzz --inputs $(or $(N),1000000) --http $(or $(HTTP),20000) --seed $(or $(SEED),0)

image-steps: .venv/.dev  ## the very steps of deploy/Dockerfile without a container, and every way to install lived once
	@$(BIN)/python -m tests.deploy

mutants: .venv/.dev  ## change core/tasks and core/routing in every way, and list what no test notices
	@rm -rf $(MUTANTS) && mkdir -p $(MUTANTS) && cp -r gateway providers tests pyproject.toml $(MUTANTS)
	@cd $(MUTANTS) && ../bin/mutmut run --max-children 2 > run.log || { tail -n 40 run.log; exit 1; }
	@cd $(MUTANTS) && ../bin/mutmut results && ../bin/mutmut export-cicd-stats > /dev/null
	@$(BIN)/python -c 'import json, sys; told = json.load(open("$(MUTANTS)/mutants/mutmut-cicd-stats.json")); print("%(killed)d of %(total)d mutants killed" % told); sys.exit(100 * told["killed"] < $(MUTATION_SCORE) * told["total"])'

bench: .venv/.dev  ## measure all groups, or CASES="create read", next to bare handlers in the same run
	@$(BIN)/python -m tests.bench $(CASES)

clients: .venv/.dev  ## install the newest LiteLLM into .venv/litellm, and live a video's life by every client that is there
	@[ -x .venv/litellm/bin/python ] || $(BIN)/uv venv --quiet --python $(BIN)/python .venv/litellm
	@$(UV) install --quiet --upgrade --python .venv/litellm/bin/python litellm
	@$(BIN)/pytest tests/clients -rs

bench-peers: .venv/.dev  ## install the newest LiteLLM proxy into .venv/peers and measure it beside ours
	@$(BIN)/python -m tests.bench peers

overload: .venv/.dev  ## measure up to ten times what can be served: goodput, refusals, memory
	@$(BIN)/python -m tests.bench overload

boards: .venv/.dev  ## write the boards of Grafana, deploy/metrics.md and the operator's rules from their data
	@$(BIN)/python -m deploy.grafana.boards
	@$(BIN)/python -m deploy.metrics_table
	@$(BIN)/python -m deploy.kubernetes.rules

reference: .venv/.dev  ## write deploy/configuration.md from the Structs that read a configuration
	@$(BIN)/python -m deploy.configuration_table

pictures: .venv/.dev  ## load a gateway for SECONDS=120 and draw each board as a real Prometheus saw it
	@$(BIN)/python -m tests.dashboards.pictures --seconds $(or $(SECONDS),120)

openapi: .venv/.setup  ## write openapi/reelgate.yaml from the code
	@$(BIN)/reelgate openapi > .venv/reelgate.yaml && mv .venv/reelgate.yaml openapi/reelgate.yaml

lock:  ## renew the hash-locked requirements from pyproject.toml
	@for what in "requirements.txt" "requirements-sandbox.txt --extra sandbox" "requirements-tracing.txt --extra tracing" "requirements-dev.txt --extra sandbox --extra tracing --group dev"; do \
	  set -- $$what; file=$$1; shift; \
	  $(UV) compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url "$$@" pyproject.toml -o $$file; done
	@$(UV) compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --group bootstrap -o requirements-bootstrap.txt
