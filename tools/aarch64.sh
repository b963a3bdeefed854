#!/bin/sh
# The compiled engine for aarch64: builds tests/kernels with a cross compiler and runs it in an emulator, or as it is on
# such a machine. On Debian: apt-get install g++-aarch64-linux-gnu qemu-user
set -e
cd "$(dirname "$0")/.."
if [ "$(uname -m)" = aarch64 ]; then
    tools/kernel_tests.sh aarch64 -O2
    exec ./build/aarch64/test_kernels
fi
CXX="${CXX:-aarch64-linux-gnu-g++}" tools/kernel_tests.sh aarch64 -O2 -static
exec qemu-aarch64 ./build/aarch64/test_kernels
