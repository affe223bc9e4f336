# Each target creates the environment it needs; the second run finds it and is quick. `make` alone explains.
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
CONSTRAINTS ?= constraints.txt
WORKERS ?= 2
PYTEST_FLAGS ?=

PIP = $(VENV)/bin/python -m pip install -q --disable-pip-version-check -c $(CONSTRAINTS)
PYTEST = $(VENV)/bin/python -m pytest $(PYTEST_FLAGS)
# Each worker begins with files of its own, because many train a model or start a Hub once for all their tests.
SHARED = -n $(WORKERS) --dist worksteal
# Docstring examples are run too; the metrics are modules for `evaluate.load`, which copies them elsewhere.
DOCTESTED = hf_cmim --ignore hf_cmim/metrics

.DEFAULT_GOAL := help
.PHONY: help demo docs test test-slow test-gpu gpu-report bench quality lowest clean
# Two installs into one environment at once would break it.
.NOTPARALLEL:

# Neither the demo nor a test may depend on the Hub.
demo test test-slow test-gpu: export HF_HUB_OFFLINE = 1
# Two workers with two threads each would fight for two cores; one thread also keeps sums in one order.
test test-slow: export OMP_NUM_THREADS = 1

help:
	@echo 'Every target creates $(VENV) with pinned versions when it is missing; the second run is quick.'
	@echo ''
	@echo '  make demo       harden a small ResNet within half a point of accuracy on 8,000 real images, and audit it'
	@echo '  make test       all tests that are neither slow nor need a GPU'
	@echo '  make test-slow  launches of several processes, kills, compilation'
	@echo '  make test-gpu   the tests that need an accelerator'
	@echo '  make gpu-report  every figure that needs a GPU, in one report of eight minutes'
	@echo '  make bench      speed and memory of the objective, the bank, a step and an audit; on a quiet machine'
	@echo '  make docs       the documentation into site/, strictly and offline'
	@echo '  make quality    ruff, typos, prose, mypy: read only'
	@echo '  make lowest     make test with the lowest versions we promise, in .venv-lowest'
	@echo '  make clean      remove caches and builds; to install anew, delete $(VENV) as well'
	@echo ''
	@echo 'Variables, for example `make demo TORCH_INDEX=<index of CPU or CUDA wheels>`:'
	@echo '  TORCH_INDEX     where torch comes from, read when $(VENV) is created; empty: the default of pip'
	@echo '  PYTHON          interpreter that creates $(VENV), 3.11 or newer ($(PYTHON))'
	@echo '  VENV            the environment ($(VENV))'
	@echo '  WORKERS         processes that share the tests ($(WORKERS))'
	@echo '  PYTEST_FLAGS    more flags, for example PYTEST_FLAGS="-k centroid"'

demo: $(VENV)/.installed-demo
	$(VENV)/bin/hf-cmim harden recipes/configs/demo.yaml

test: $(VENV)/.installed-test
	$(PYTEST) -m 'not slow and not gpu' $(SHARED) --doctest-modules tests $(DOCTESTED)

test-slow: $(VENV)/.installed-test
	$(PYTEST) -m 'slow and not gpu' $(SHARED) tests

test-gpu: $(VENV)/.installed-test
	$(PYTEST) -m gpu tests

gpu-report: $(VENV)/.installed-test
	$(VENV)/bin/python benchmarks/gpu_report.py

# What docs/benchmarks.md holds. On a machine that does something else only the ratios mean anything, and they less.
bench: $(VENV)/.installed-test
	$(VENV)/bin/python benchmarks/loss.py
	$(VENV)/bin/python benchmarks/loss.py --calls 1
	$(VENV)/bin/python benchmarks/loss.py --sweep temperatures --rounds 20
	$(VENV)/bin/python benchmarks/loss.py --sweep classes --rounds 10
	$(VENV)/bin/python benchmarks/bank.py
	$(VENV)/bin/python benchmarks/step.py --pairs 150
	$(VENV)/bin/python benchmarks/step.py --hidden_size 192 --layers 12 --image_size 32 --num_labels 100 --batch_size 32 \
		--pairs 60 --warmup 3 --threads 2
	$(VENV)/bin/python benchmarks/audit.py --students 8 --rounds 3 --epochs 1
	$(VENV)/bin/python benchmarks/audit_processes.py --families kd dist --epochs 2

# Strict: a link or an anchor that leads nowhere fails it. The variable silences an advertisement of the theme.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --quiet --strict

# mypy needs the types of matplotlib and cryptography.
quality: $(VENV)/.installed-dev $(VENV)/.installed-plots $(VENV)/.installed-sign
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/typos
	$(VENV)/bin/python tests/prose.py
	$(VENV)/bin/mypy

# Warnings are no errors here: an old release may warn about a younger neighbour, which we cannot mend.
lowest:
	$(MAKE) test VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt PYTEST_FLAGS='-W default $(PYTEST_FLAGS)'

clean:
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -path './.venv*' -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

# torch goes first and alone, so that nothing installed later can pull in another build of it.
# Without its dependencies, because an index of torch wheels rarely holds the pinned ones; the next rule adds them.
$(VENV)/.installed-torch: $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 11) and sys.exit("Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --no-deps $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	touch $@

$(VENV)/.installed-%: setup.py $(CONSTRAINTS) | $(VENV)/.installed-torch
	$(PIP) -e '.[$*]'
	touch $@
