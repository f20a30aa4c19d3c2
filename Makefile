# What people do here; `make` alone lists it. Everything sets itself up and asks nothing.

.DEFAULT_GOAL := help
.PHONY: help demo test test-3.13 fuzz stories crash-sweep power-cuts mutants lint bench clean \
	debian-packages bench-packages

# The oldest supported Python is taken first, so that what is tested there runs everywhere.
usable = $(firstword $(foreach python,$(1),$(shell $(python) -c 'import ensurepip, sys; \
	sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $(python))))
PYTHON ?= $(call usable,python3.11 python3 python3.12 python3.13 python3.14)
PYTHON313 ?= $(call usable,python3.13 $(lastword $(wildcard $(HOME)/.pyenv/versions/3.13.*/bin/python3.13)))
BENCH ?=
SWEEP ?=
MUTANTS ?=
# Whole files to a worker, since their servers are shared. Some tests mostly wait: three workers to
# two cores. Those that run the program take longest and go first.
PYTEST = -m pytest -n 3 --dist loadfile --no-loadscope-reorder
TESTS = $(wildcard tests/test_*.py) tests/edge tests/core

help:
	@echo 'make demo    deliver sample days to a server on this machine and check them'
	@echo 'make test    run every test, with coverage (make test-3.13: all of them on Python 3.13)'
	@echo 'make fuzz    hostile input, a hundred times as much of it as make test (FUZZ=1000: more)'
	@echo 'make power-cuts  cut the power before and after every fsync and commit of a run'
	@echo 'make stories    a thousand stories of runs, crashes, clocks, servers and people (STORIES=5000: more)'
	@echo 'make crash-sweep  200 crashes and 200 network cuts, each made up for and checked (SWEEP="--seed 7")'
	@echo 'make mutants  change the code in small ways and see what no test notices (MUTANTS="--sample 150")'
	@echo 'make lint    ruff and mypy'
	@echo 'make bench   beside what people would use instead, in 45 minutes (BENCH="--only a,d --small": a part)'
	@echo 'make clean   remove what these made'

demo: .venv/.installed
	.venv/bin/mxdeliver demo

# Some environments have Python keep no bytecode; every start would then compile the program again.
test test-3.13: export PYTHONDONTWRITEBYTECODE =

test: .venv/.dev debian-packages
	.venv/bin/coverage erase
	.venv/bin/python $(PYTEST) --cov --cov-report=term $(TESTS)

test-3.13: debian-packages
	$(MAKE) --no-print-directory PYTHON='$(PYTHON313)' .venv-3.13/.dev
	.venv-3.13/bin/python $(PYTEST) $(TESTS)

fuzz: export FUZZ ?= 100
fuzz: .venv/.dev debian-packages
	.venv/bin/python -m pytest -n 2 --timeout 0 tests/edge/test_*_fuzz.py

stories: export STORIES ?= 1000
stories: export STEPS ?= 25
stories: .venv/.dev debian-packages
	.venv/bin/python -m pytest tests/test_state_machine.py

power-cuts: export MXDELIVER_POWER_CUTS = all
power-cuts: .venv/.dev debian-packages
	.venv/bin/python -m pytest tests/test_power_cut.py

crash-sweep: .venv/.dev debian-packages
	.venv/bin/python -m tests.sweep $(SWEEP)

mutants: .venv/.mutation debian-packages
	.venv/bin/python -m tests.mutation $(MUTANTS)

lint: .venv/.dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: .venv/.bench bench-packages
	.venv/bin/python -m bench $(BENCH)

clean:
	rm -rf .venv .venv-3.13 mxdeliver-demo dist build htmlcov .coverage .coverage.* \
		.mutants .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

debian-packages:
	@tests/debian-packages tests/debian-packages.txt

bench-packages:
	@tests/debian-packages bench/debian-packages.txt

.SECONDARY:

# A change of pyproject.toml installs again; a virtual environment that works is kept.
%/.installed: pyproject.toml
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or newer with its venv module is needed.' >&2; exit 1; }
	@echo 'Installing (a minute)…'
	test -x $*/bin/python || $(PYTHON) -m venv $*
	$*/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$*/bin/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

%/.dev: %/.installed
	$*/bin/python -m pip install --quiet --disable-pip-version-check --group dev
	@touch $@

%/.bench: %/.dev
	$*/bin/python -m pip install --quiet --disable-pip-version-check --group bench
	@touch $@

%/.mutation: %/.dev
	$*/bin/python -m pip install --quiet --disable-pip-version-check --group mutation
	@touch $@
