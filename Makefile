# `make demo` is the whole platform on this machine; `make test` is everything that can be checked.
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
export PATH := $(BIN):$(PATH)

.PHONY: help venv demo demo-down test lint unit docs clean
help:
	@echo "make demo       a platform of three hosts on this machine, proved by running notebook cells in it"
	@echo "make demo-down  remove it and all that it made"
	@echo "make test       lint, unit tests, role scenarios, the site under kills, browser tests, faults"
	@echo "make lint unit docs venv"

# The virtual environment with all that is pinned; a change of a lock renews it.
venv:
	@$(PYTHON) demo/demo.py venv --requirements requirements/test.txt

demo:
	@$(PYTHON) demo/demo.py up

demo-down:
	@$(PYTHON) demo/demo.py down

# ansible-lint is told where to look: a search of its own would follow the link in collections/ for ever.
lint: venv
	ruff check .
	mypy --strict plugins/module_utils testbed/testbed.py demo
	yamllint --strict .
	ansible-lint --offline --profile production playbooks roles molecule inventories group_vars

unit: venv
	pytest -q tests/unit

# Everything in one run, so that its last line counts everything. What needs hosts runs beside what only computes (tests/conftest.py).
test: lint
	pytest -n 2 --dist loadscope --no-loadscope-reorder --durations=20 tests/site tests/roles tests/testbed tests/unit

docs: venv
	$(BIN)/python docs/generate.py
