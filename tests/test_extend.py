"""Adapters use the public names of the core and those of `smnn_core.extend`, and nothing else of it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import smnn_core
from smnn_core import extend

ADAPTERS = [*(Path(__file__).parents[1] / "adapters").glob("*/*.py")]
PUBLIC = {"smnn_core": smnn_core.__all__, "smnn_core.extend": extend.__all__}


def imported() -> set[tuple[str, str]]:
    """Modules and names of the core in the import statements of all adapters; "" for the module as a whole."""
    nodes = [node for path in ADAPTERS for node in ast.walk(ast.parse(path.read_text("utf-8")))]
    names = {
        (node.module, alias.name)
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module and not node.level
        for alias in node.names
    }
    names |= {(alias.name, "") for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {(module, name) for module, name in names if module.split(".")[0] == "smnn_core"}


def test_adapters_import_public_names_only() -> None:
    found = imported()
    assert ("smnn_core.extend", "Problem") in found
    assert not {(m, name) for m, name in found if m not in PUBLIC or (PUBLIC[m] is not None and name not in PUBLIC[m])}


def test_every_name_has_a_user_and_its_place_in_the_description() -> None:
    used = {name for module, name in imported() if module == "smnn_core.extend"}
    assert set(extend.__all__) == used
    words = set(re.findall(r"`(\w+)`", extend.__doc__ or ""))
    assert not used - words


def test_names_are_unlike_the_public_ones() -> None:
    assert not set(extend.__all__) & set(smnn_core.__all__)


def test_the_core_does_not_import_torch() -> None:
    code = "import sys, smnn_core.extend; sys.exit('torch' in sys.modules or 'jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
