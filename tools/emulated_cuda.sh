#!/bin/sh
# The tests of the core and of the adapters with the CUDA engine in them, its kernels on a grid that the CPU emulates
# (tests/cuda/_fake_cupy.py). Left out: what is particular to the CPU (values that are looked at, memory that is shared,
# results equal to NumPy's to the bit).
set -e
cd "$(dirname "$0")/.."
# (plugins import JAX before the tests can say how they want it)
export JAX_ENABLE_X64=1 SMNN_REQUIRE_CUPY=1 PYTHONPATH=.:adapters:tests/cuda
PYTHON=${PYTHON:-python}
test() {
    plugin=$1
    shift
    "$PYTHON" -m pytest -q -p "$plugin" "$@"
}
test _plugin_cupy tests/core -k cupy
test _plugin_torch tests/torch/test_torch_solve.py tests/torch/test_torch_derivatives.py tests/torch/test_torch_graphs.py \
    tests/torch/test_torch_device.py tests/torch/test_torch_posterior.py \
    -k "not on_a_cpu and not zero_step and not singular and not not_remembered_wrongly and not those_of_the_core"
test _plugin_jax tests/jax/test_solve.py tests/jax/test_transforms.py tests/jax/test_posterior.py \
    -k "not core_on_the_same_numbers and not custom_scheme and not time_invariant"
