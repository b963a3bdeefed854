#!/bin/sh
# Builds tests/kernels and the sources of the compiled engine into build/FOLDER/test_kernels, with $CXX:
# tools/kernel_tests.sh FOLDER FLAGS...
# For example, whether Clang compiles the same: CXX=clang++ tools/kernel_tests.sh clang -O2 && build/clang/test_kernels
set -e
cd "$(dirname "$0")/.."
cxx="${CXX:-c++}"
sources=smnn_core/engines/_cpu
to="build/$1"
shift
mkdir -p "$to"
set -- -std=c++17 -Wall -Wextra -Werror -Wno-psabi -fno-math-errno -fno-trapping-math "$@"
compile() {
    $cxx "$@"
}
pids=
for group in SIZED SMALL LARGE COVARIANCES; do
    compile "$@" -DSMNN_LEVEL=baseline -DSMNN_LEVEL_NAME='"baseline"' -DSMNN_FEW_SIZES "-DSMNN_GROUP_$group" \
        -c "$sources/level.cpp" -o "$to/level_$group.o" &
    pids="$pids $!"
done
for file in engine levels threads buffers; do
    compile "$@" -c "$sources/$file.cpp" -o "$to/$file.o" &
    pids="$pids $!"
done
compile "$@" -c tests/kernels/test_kernels.cpp -o "$to/test_kernels.o"
for pid in $pids; do wait "$pid"; done
compile "$@" "$to"/*.o -o "$to/test_kernels"
