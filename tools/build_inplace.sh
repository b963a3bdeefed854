#!/bin/sh
# Builds the kernels into smnn_core/engines, for development. Arguments go to CMake, e.g. -DSMNN_QUICK=ON.
set -e
cd "$(dirname "$0")/.."
python="${PYTHON:-python}"
cmake -S . -B build/inplace -G Ninja -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" "$@" >/dev/null
cmake --build build/inplace
# install, not cp: a new file, so that programs that have the old one mapped go on
install -m 755 build/inplace/_kernels*.so smnn_core/engines/
