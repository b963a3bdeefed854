"""Prints the requirements of extras of this project, one a line: `python tools/requirements.py test torch`.

The Makefile installs them without building the project again for each set of extras.
"""

import sys
import tomllib
from pathlib import Path

with Path(__file__).parents[1].joinpath("pyproject.toml").open("rb") as file:
    extras = tomllib.load(file)["project"]["optional-dependencies"]
for extra in sys.argv[1:]:
    print(*extras[extra], sep="\n")
