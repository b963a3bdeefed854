#!/bin/sh
# Prints every Python from 3.12 on that can make virtual environments, one a line; the one that LATEST_PYTHON names first.
for candidate in $LATEST_PYTHON python3.12 python3.13 python3.14 /usr/bin/python3 python3; do
    "$candidate" -c 'import ensurepip, os, sys, venv
if sys.version_info >= (3, 12): print(os.path.realpath(sys.executable))' 2>/dev/null
done | awk '!seen[$0]++'
