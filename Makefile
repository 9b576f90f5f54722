# Everything runs in .venv, which `make setup` makes from requirements.lock. Python 3.11 or newer is all that must be there.
PYTHON ?= $(firstword $(foreach v,python3.11 python3.12 python3.13 python3,$(shell $(v) -c 'import sys; sys.version_info < (3, 11) or print("$(v)")' 2>/dev/null)))
BIN := .venv/bin
READY := .venv/.ready
DEMO_OUTPUT ?= demo

.PHONY: setup demo test lint docs bench lock
.DEFAULT_GOAL := setup

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "setup: no Python 3.11 or newer found; install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --no-deps -e .
	@# Ray and Beam start dozens of processes, each of which imports it all; as bytecode that takes a third of the time.
	$(BIN)/python -m compileall -qq -j 0 .venv/lib || true # a few files in there are for other versions of Python
	touch $@

demo: setup
	$(BIN)/sdiff demo --output $(DEMO_OUTPUT)

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check

docs: setup
	$(BIN)/python docs/generate.py

bench: setup
	$(BIN)/sdiff simulate --output out/bench --minutes 2 --regions 1
	$(BIN)/python benchmarks/ingest.py sumo out/bench
	$(BIN)/python benchmarks/sampling.py

# Exact versions of all that pyproject.toml asks for, resolved anew. A local build of torch (+cpu) is not part of the pin.
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet -e '.[dev]'
	.venv-lock/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > requirements.lock
	rm -rf .venv-lock
