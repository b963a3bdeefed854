#!/bin/sh
# The compiled engine for aarch64: builds tests/kernels with a cross compiler and runs it in an emulator, or as it is on
# such a machine.
set -e
cd "$(dirname "$0")/.."
if [ "$(uname -m)" = aarch64 ]; then
    tools/kernel_tests.sh aarch64 -O2
    exec ./build/aarch64/test_kernels
fi
CXX="${CXX:-aarch64-linux-gnu-g++}"
for tool in "${CXX%% *}" qemu-aarch64; do
    if ! command -v "$tool" >/dev/null; then
        echo "aarch64: $tool not found. On Debian: apt-get install g++-aarch64-linux-gnu qemu-user" >&2
        exit 1
    fi
done
export CXX
tools/kernel_tests.sh aarch64 -O2 -static
OMP_NUM_THREADS=4 exec qemu-aarch64 ./build/aarch64/test_kernels
