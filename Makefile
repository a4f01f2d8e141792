# `make run` and `make test` set themselves up: they need Python 3.11+, pip and a C compiler.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

# Bytecode is kept, also where the environment says not to: hundreds of processes would compile weft
# and its libraries anew.
export PYTHONDONTWRITEBYTECODE =

.PHONY: help run test test-slow fuzz sanitize lint bench notebooks clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(VENV)/.run: setup.py pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

# Bytecode of what is imported is made then: most of what tests need in part is never imported.
# pip of before 2025 takes twice as long to look through what the registry has of a hundred packages.
$(VENV)/.dev: setup.py pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q 'pip>=25' || echo "pip stays as it is"
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install -q --no-compile -c constraints.txt -e '.[dev]'
	touch $(VENV)/.run $@

run: $(VENV)/.run  ## compile and run the essay judge on the shipped tiny model
	$(BIN)/weft run examples/essay_judge.weft --model tiny-dense --arg essay=@examples/data/essay.txt

# Each worker keeps to one thread: pools that spin would take the cores from one another.
WORKERS ?= auto
PYTEST = OMP_NUM_THREADS=1 WEFT_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal

test: $(VENV)/.dev  ## the test suite, without slow and GPU tests
	$(PYTEST) -m "not slow and not gpu"

test-slow: $(VENV)/.dev  ## the slow tests too, and property tests with examples that no run had
	$(PYTEST) -m "not gpu" --hypothesis-profile=new-examples

FUZZ_SECONDS ?= 60
fuzz: $(VENV)/.dev  ## random programs through random passes and engine settings, against the oracle
	$(BIN)/python tests/fuzz/run_fuzz.py --seconds $(FUZZ_SECONDS)

sanitize: $(VENV)/.dev  ## the kernels' GPU tests under compute-sanitizer: accesses, races, barriers, what is not written
	$(BIN)/python tests/sanitize/run_sanitizer.py

lint: $(VENV)/.dev  ## ruff and pyright
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.dev  ## every CPU figure, recorded in bench/results
	$(BIN)/python -m bench.cpu --record

notebooks: $(VENV)/.dev  ## run every notebook and keep its pictures
	$(BIN)/python notebooks/build.py

clean:  ## remove the environment and caches
	rm -rf $(VENV) build *.egg-info .pytest_cache .hypothesis .ruff_cache
