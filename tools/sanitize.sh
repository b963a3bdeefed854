#!/bin/sh
# The compiled engine under the address and undefined-behaviour sanitizers: builds and runs tests/kernels.
set -e
cd "$(dirname "$0")/.."
cxx="${CXX:-c++}"
sources=smnn_core/engines/_cpu
mkdir -p build/sanitize
# Checks of every reference for null, alignment and object size are left out: they take the compiler ten times as long,
# and the first two crash by themselves.
flags="-std=c++17 -O1 -g1 -fno-var-tracking -Wall -Wextra -Wno-psabi -fno-math-errno -fno-trapping-math
    -fsanitize=address,undefined -fno-sanitize=null,alignment,object-size,vptr -fno-sanitize-recover=all"
for file in level engine levels threads buffers; do
    $cxx $flags -DSMNN_LEVEL=baseline -DSMNN_LEVEL_NAME='"baseline"' -DSMNN_FEW_SIZES -c "$sources/$file.cpp" \
        -o "build/sanitize/$file.o" &
done
$cxx $flags -c tests/kernels/test_kernels.cpp -o build/sanitize/test_kernels.o
wait
$cxx $flags build/sanitize/*.o -o build/sanitize/test_kernels
./build/sanitize/test_kernels
