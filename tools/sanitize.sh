#!/bin/sh
# The compiled engine under the sanitizers for addresses and undefined behaviour, then for threads: builds and runs
# tests/kernels, whose threads are those of the standard library (OpenMP's runtime is not instrumented).
set -e
cd "$(dirname "$0")/.."
# Checks of every reference for null, alignment and object size are left out: they take the compiler ten times as long,
# and the first two crash by themselves.
tools/kernel_tests.sh sanitize -O1 -g1 -fno-var-tracking -fsanitize=address,undefined \
    -fno-sanitize=null,alignment,object-size,vptr -fno-sanitize-recover=all
OMP_NUM_THREADS=4 ./build/sanitize/test_kernels
tools/kernel_tests.sh sanitize-threads -O1 -g1 -fno-var-tracking -fsanitize=thread
OMP_NUM_THREADS=4 TSAN_OPTIONS=halt_on_error=1 ./build/sanitize-threads/test_kernels
