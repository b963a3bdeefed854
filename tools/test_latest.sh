#!/usr/bin/env bash
# The tests of the JAX adapter under the newest JAX, on a Python that it supports (LATEST_PYTHON, at least 3.12), in a
# virtual environment of their own. The other tests run on the oldest supported Python: `make test`.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$(tools/newer_pythons.sh | head -n 1)
if [ -z "$python" ]; then
    echo "test-latest needs Python >= 3.12 with venv: none found; LATEST_PYTHON=... names one" >&2
    exit 1
fi

environment=${LATEST_VENV:-.venv-latest}
[ -x "$environment/bin/python" ] || "$python" -m venv "$environment"
run="$environment/bin/python"
"$run" tools/requirements.py jax test > "$environment/requirements.txt"
"$run" -m pip --disable-pip-version-check install --quiet --upgrade --editable . --requirement "$environment/requirements.txt"
"$run" -c 'import jax, sys; print("JAX", jax.__version__, "on Python", sys.version.split()[0])'
exec "$run" -m pytest -n "${WORKERS:-2}" tests/jax "$@"
