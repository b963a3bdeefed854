#!/bin/sh
# Builds an sdist and, from it, a wheel; installs the wheel alone in a new environment and solves with it, away from the
# sources. PYTHON chooses the interpreter; it needs the package `build`.
set -e
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
"$python" -m build --outdir "$work/dist" .
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip --disable-pip-version-check install --quiet "$work"/dist/*.whl
cp tools/wheel_smoke.py "$work"
cd "$work"
"$work/venv/bin/python" -I wheel_smoke.py
mkdir -p "$OLDPWD/dist"
cp dist/* "$OLDPWD/dist"
