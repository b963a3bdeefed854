#!/bin/sh
# Builds tests/kernels and the sources of the compiled engine into build/FOLDER/test_kernels, with $CXX:
# tools/kernel_tests.sh FOLDER FLAGS...
# As many files at a time as CMAKE_BUILD_PARALLEL_LEVEL says, or as there are processors.
set -e
cd "$(dirname "$0")/.."
sources=smnn_core/engines/_cpu
to="build/$1"
shift
mkdir -p "$to"
compile="${CXX:-c++} -std=c++17 -pthread -Wall -Wextra -Werror -Wno-psabi -fno-math-errno -fno-trapping-math $*"
{
    for group in SIZED SMALL LARGE COVARIANCES WINDOWS; do
        echo "-DSMNN_LEVEL=baseline -DSMNN_VECTOR_BYTES=16 -DSMNN_VECTORS=2 -DSMNN_FEW_SIZES -DSMNN_GROUP_$group -c $sources/isa_kernels.cpp -o $to/isa_kernels_$group.o"
    done
    echo "-c tests/kernels/test_kernels.cpp -o $to/test_kernels.o"
    for file in engine isa_dispatch threads buffers; do echo "-c $sources/$file.cpp -o $to/$file.o"; done
} | xargs -P "${CMAKE_BUILD_PARALLEL_LEVEL:-$(getconf _NPROCESSORS_ONLN)}" -I '{}' sh -c "$compile {}"
exec $compile "$to"/isa_kernels_*.o "$to"/test_kernels.o "$to"/engine.o "$to"/isa_dispatch.o "$to"/threads.o "$to"/buffers.o -o "$to/test_kernels"
