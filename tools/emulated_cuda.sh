#!/bin/sh
# The tests of the core and of the PyTorch adapter with the CUDA engine in them, its kernels on a grid that the CPU emulates
# (tests/cuda/_fake_cupy.py). Left out: what is particular to the CPU (values that are looked at, memory that is shared).
set -e
cd "$(dirname "$0")/.."
export SMNN_REQUIRE_CUPY=1 PYTHONPATH=.:adapters:tests/cuda
PYTHON=${PYTHON:-python}
"$PYTHON" -m pytest -q -p _plugin_cupy tests/core -k cupy "$@"
"$PYTHON" -m pytest -q -p _plugin_torch tests/torch/test_torch_solve.py tests/torch/test_torch_derivatives.py tests/torch/test_torch_graphs.py \
    -k "not on_a_cpu and not zero_step and not singular and not not_remembered_wrongly and not those_of_the_core" "$@"
