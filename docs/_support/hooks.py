"""Hooks of the site while it is built.

- The examples on the pages may import the packages from the working tree, and `figures` from this folder.
- README's examples run, and must print what README says. Its pictures are found from the home page, which includes it.
- Examples are at most as wide as docs/ruff.toml says.
- Formulas become MathML here, so that browsers show them without scripts, fonts or network.
"""

from __future__ import annotations

import html
import os
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "docs" / "ruff.toml").read_text("utf-8"))
WIDTH = SETTINGS["line-length"]
FENCE = re.compile(r"\s*```(.*)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_startup(**_: Any) -> None:
    # read when JAX starts, which the pages do: four devices to show sharding on
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
    for folder in (ROOT / "docs" / "_support", ROOT / "tools", ROOT / "adapters", ROOT):
        sys.path.insert(0, str(folder))


def on_pre_build(**_: Any) -> None:
    from run_examples import run  # on the path only now

    run(ROOT / "README.md")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> None:
    """Lines of examples that readers would have to scroll for are an error."""
    if too_wide := wide_lines(markdown, page.file.src_uri):
        raise PluginError(
            f"{page.file.src_uri}: wider than {WIDTH} characters, which are seen:\n" + "\n".join(too_wide)
        )


def wide_lines(markdown: str, page: str) -> list[str]:
    """The lines of code that is shown, and of text in fences, that exceed the width."""
    if page in SETTINGS.get("format", {}).get("exclude", ()):
        return []
    found, inside, shown = [], False, False
    for line in markdown.splitlines():
        if fence := FENCE.match(line):
            inside = not inside
            shown = inside and ('exec="true"' not in fence[1] or "source=" in fence[1])
        elif shown and len(line) > WIDTH:
            found.append(line)
    return found


def on_page_content(content: str, page: Any, **_: Any) -> str:
    content = content.replace('<img src="docs/', '<img src="')
    return FORMULA.sub(lambda formula: _mathml(formula, page.file.src_uri), content)


def _mathml(formula: re.Match[str], page: str) -> str:
    latex = html.unescape(formula[3]).strip()
    block = formula[2] == "["
    mathml = convert(latex, display="block" if block else "inline")
    # The converter copies commands that it does not know; an unescaped & is a column mark outside a matrix.
    if "\\" in mathml or re.search(r"&(?!#?\w+;)", mathml):
        raise PluginError(f"{page}: a command or environment in this formula is not supported: {latex}")
    source = html.escape(latex, quote=True)
    mathml = mathml.replace("<math ", f'<math alttext="{source}" ', 1)
    return f'<div class="formula">{mathml}</div>' if block else mathml
