# Métier: the two commands of a newcomer are `make demo` and `make test`. `make` alone shows them all.
PYTHON ?= python3
BIN = .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test check format bench chaos serve lock clean

help: ## show this help
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 12

install: ## install the platform into .venv, nothing outside it
	@command -v "$(PYTHON)" >/dev/null || { echo "Métier needs Python 3.11, 3.12 or 3.13 and there is no $(PYTHON): apt-get install python3, or make PYTHON=path"; exit 1; }
	@"$(PYTHON)" scripts/install.py run

demo: install ## do the main job on real e-mails with a real local model (ARGS="--all --approve")
	@"$(BIN)/metier" demo $(ARGS)

test: ## install what tests need, then run them all
	@$(PYTHON) scripts/install.py test
	@"$(BIN)/python" -m pytest $(ARGS)

check: ## formatting, lint, types and floors
	@$(PYTHON) scripts/install.py test
	@"$(BIN)/ruff" format --check .
	@"$(BIN)/ruff" check .
	@"$(BIN)/mypy" src tests
	@"$(BIN)/lint-imports" --no-cache

format: ## put the sources in form
	@"$(BIN)/ruff" format .
	@"$(BIN)/ruff" check --fix .

bench: ## measure every part (see bench/)
	@$(PYTHON) scripts/install.py test
	@for file in bench/gateway.py bench/routing.py bench/engine.py bench/parked.py bench/fanout.py \
		bench/replay.py bench/fairness.py bench/guardrails.py; do "$(BIN)/python" $$file || exit 1; done

chaos: ## kill workers and PostgreSQL at every place a run can be in (half an hour)
	@$(PYTHON) scripts/install.py test
	@"$(BIN)/python" bench/chaos.py --every 1 --every-outage 1

serve: install ## start the gateway and the console on this machine
	@"$(BIN)/metier" serve

lock: ## refresh the lock after a change of dependencies (needs uv)
	@sh scripts/lock.sh

clean: ## remove what was built here; data in METIER_HOME stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
