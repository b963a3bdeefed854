#!/bin/sh
# The compiled engine by Clang, as the package `ziglang` brings it: tests/kernels built and run for this machine, and
# built, which is all that can be done here, for macOS and Windows. PYTHON has the package.
set -e
cd "$(dirname "$0")/.."
zig="${PYTHON:-python3} -m ziglang c++"
CXX="$zig" tools/kernel_tests.sh clang -O2
OMP_NUM_THREADS=4 ./build/clang/test_kernels
for target in aarch64-macos x86_64-macos x86_64-windows-gnu; do
    CXX="$zig -target $target" tools/kernel_tests.sh "clang-$target" -O1
    echo "$target: compiled and linked"
done
