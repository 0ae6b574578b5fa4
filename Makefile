# Each target installs what it needs into .venv: `make demo` and `make test` need only python3 and make.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin
export OMP_WAIT_POLICY ?= PASSIVE# idle threads sleep: on a busy machine they would hold the cores
WORKERS ?= logical# processes that share the tests: as many as cores, four at most; `make test WORKERS=0` uses none
SPREAD = -n $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-all fuzz check docs bench setup lock licences clean

demo: setup
	$(BIN)/circuits demo

test: setup
	$(BIN)/python -m pytest $(SPREAD)

# Everything, slow tests too; then those of the mathematics again, while the types and shapes of every call are checked.
test-all: setup
	$(BIN)/python -m pytest $(SPREAD) -m ""
	$(BIN)/python -m pytest $(SPREAD) --jaxtyping-packages=circuits,sae,analysis,beartype.beartype \
		tests/circuits tests/sae tests/analysis/attribution tests/project/test_structure.py

# Files and calls changed at random, new ones each time; FUZZ is how many of each kind.
fuzz: setup
	FUZZ=$(or $(FUZZ),3000) $(BIN)/python -m pytest $(SPREAD) tests/fuzz

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: setup
	$(BIN)/python docs/reference.py

bench: setup
	$(BIN)/python -m benchmarks

setup: $(STAMP)

# Installs again only when a pin or a dependency changes (`make lock` writes them again after a change of dependencies). The stamp is written last, so an
# installation that failed half-way starts again.
$(STAMP): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v <= (3, 13) else f"Python 3.10 to 3.13 is needed, {sys.executable} is {v[0]}.{v[1]}: make PYTHON=/path/to/python3.12 setup")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

# The pins: one file for every Python and platform, by markers; and the same with the hash of every file of the package index.
lock: setup
	$(BIN)/python -m pip install --quiet uv
	echo 'torch==2.13.0' | $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 --all-extras \
		--no-emit-index-url --no-header --no-annotate -c - pyproject.toml -o constraints.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --all-extras --generate-hashes \
		--no-emit-index-url --no-header --no-annotate -c constraints.txt pyproject.toml -o requirements.lock

licences: setup
	$(BIN)/python docs/licences.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
