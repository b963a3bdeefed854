"""Prints the requirements of extras of this project, one a line: `python tools/requirements.py [--oldest] test torch`.

`core` are those of the project itself; with --oldest, the lowest version of each that is allowed. The Makefile installs
them without building the project again for each set of extras.
"""

import sys
import tomllib
from pathlib import Path


def requirements(names: list[str], *, oldest: bool = False) -> list[str]:
    """Of the extras, and of the project itself for "core"."""
    with Path(__file__).parents[1].joinpath("pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    extras = {"core": project["dependencies"], **project["optional-dependencies"]}
    found = [requirement for name in names for requirement in extras[name]]
    return [requirement.replace(">=", "==") for requirement in found] if oldest else found


if __name__ == "__main__":
    print(*requirements([name for name in sys.argv[1:] if name != "--oldest"], oldest="--oldest" in sys.argv), sep="\n")
