#!/bin/sh
# The compiled engine under the sanitizers for addresses and undefined behaviour, then for threads: builds and runs
# tests/kernels, whose threads are those of the standard library (OpenMP's runtime is not instrumented). Then the public
# functions on problems of random shapes for $SECONDS_OF_FUZZ (300), with a module that the sanitizer for addresses watches.
set -e
cd "$(dirname "$0")/.."
# Checks of every reference for null, alignment and object size are left out: they take the compiler ten times as long,
# and the first two crash by themselves.
tools/kernel_tests.sh sanitize -O1 -g1 -fno-var-tracking -fsanitize=address,undefined \
    -fno-sanitize=null,alignment,object-size,vptr -fno-sanitize-recover=all
OMP_NUM_THREADS=4 ./build/sanitize/test_kernels
tools/kernel_tests.sh sanitize-threads -O1 -g1 -fno-var-tracking -fsanitize=thread
OMP_NUM_THREADS=4 TSAN_OPTIONS=halt_on_error=1 ./build/sanitize-threads/test_kernels

python="${PYTHON:-python}"
cmake -S . -B build/sanitize-module -G Ninja -DSMNN_QUICK=ON -DCMAKE_BUILD_TYPE=None \
    -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" \
    -DCMAKE_CXX_FLAGS="-O1 -g1 -fno-var-tracking -fno-omit-frame-pointer -fsanitize=address" >/dev/null
cmake --build build/sanitize-module
# (Python, which is not instrumented, needs the runtime before it starts, and leaks by design)
libraries="$(${CXX:-c++} -print-file-name=libasan.so) $(${CXX:-c++} -print-file-name=libstdc++.so)"
LD_PRELOAD="$libraries" ASAN_OPTIONS=detect_leaks=0 OMP_NUM_THREADS=2 "$python" tools/fuzz_shapes.py \
    --kernels build/sanitize-module/_kernels*.so --seconds "${SECONDS_OF_FUZZ:-300}" --torch
