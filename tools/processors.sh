#!/bin/sh
# The tests of whatever computes, as other processors run them: with OpenBLAS's kernels for each of them, with each
# instruction set of the compiled engine, and with that of PyTorch and its MKL. Tolerances come from conditioning, not from
# one processor's order of additions: all pass everywhere. PYTHON runs them; arguments go to pytest.
set -eu

python=${PYTHON:-python3}
usable=$("$python" -c 'from smnn_core.engines import cpu; print(cpu._kernels.usable_isas() if cpu._kernels else "")')

# OpenBLAS's name, the instruction set of the engine, of PyTorch, of MKL
while read -r blas engine torch mkl; do
    case ", $usable," in
    *", $engine,"*) ;;
    *)
        echo "== $blas: this processor, or this build, has no $engine instructions"
        continue
        ;;
    esac
    echo "== $blas, $engine"
    OPENBLAS_CORETYPE=$blas SMNN_SIMD=$engine ATEN_CPU_CAPABILITY=$torch MKL_ENABLE_INSTRUCTIONS=$mkl \
        "$python" -m pytest -m "not slow" "$@" \
        tests/core tests/engines tests/torch tests/jax tests/petab tests/baselines </dev/null
done <<PROCESSORS
SkylakeX avx512 avx512 AVX512
Haswell avx2 avx2 AVX2
Zen baseline default SSE4_2
PROCESSORS
