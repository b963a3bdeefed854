"""A writer of small PEtab problems."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from _petab_case import Writer


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Writes a problem and loads it."""
    from _petab_case import Writer  # modules of tests without the extra `petab` are skipped, and never come here

    return Writer(tmp_path)
