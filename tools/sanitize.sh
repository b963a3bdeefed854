#!/bin/sh
# The compiled engine under the address and undefined-behaviour sanitizers: builds and runs tests/kernels.
set -e
cd "$(dirname "$0")/.."
# Checks of every reference for null, alignment and object size are left out: they take the compiler ten times as long,
# and the first two crash by themselves.
tools/kernel_tests.sh sanitize -O1 -g1 -fno-var-tracking -fsanitize=address,undefined \
    -fno-sanitize=null,alignment,object-size,vptr -fno-sanitize-recover=all
./build/sanitize/test_kernels
