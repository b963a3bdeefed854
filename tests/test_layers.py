"""Which part of the library may import which: a part may use those below it, never one above."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import smnn_core

ROOT = Path(smnn_core.__file__).parent
LAYERS = [
    "uncertainty",
    "trajectory",
    "fitting",
    "discovery",
]  # from the lowest, which uses the linear solver only


def imported(module: Path) -> Iterator[str]:
    """Full names of the modules of the core that a module imports."""
    package = ("smnn_core", *module.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            name = ".".join((*base, *filter(None, [node.module])))
            yield from (f"{name}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def users_of(layer: str, modules: Iterable[Path]) -> set[str]:
    return {
        str(m.relative_to(ROOT)) for m in modules if any(f"{n}.".startswith(f"smnn_core.{layer}.") for n in imported(m))
    }


@pytest.mark.parametrize("layer", LAYERS)
def test_the_linear_solver_knows_nothing_of_what_is_built_on_it(layer: str) -> None:
    top = (m for m in ROOT.glob("*.py") if m.name not in ("__init__.py", "extend.py"))
    assert not users_of(layer, [*top, *ROOT.glob("engines/**/*.py")])


@pytest.mark.parametrize("user", LAYERS)
def test_a_part_uses_only_parts_below_it(user: str) -> None:
    above = LAYERS[LAYERS.index(user) + 1 :]
    assert not {layer: users for layer in above if (users := users_of(layer, [*ROOT.glob(f"{user}/*.py")]))}


def test_imports_are_found() -> None:
    assert "discovery/_term_selection.py" in users_of("fitting", [*ROOT.glob("discovery/*.py")])
