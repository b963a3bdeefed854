"""tools/sass.py, on what a disassembler writes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"

TEXT = """
\t.section\t.text.smnn_back,"ax",@progbits
.text.smnn_back:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/              @!P0 DFMA R2, R2, R4, R6 ;
        /*0020*/                   LDG.E.64 R4, desc[UR4][R4.64] ;
        /*0030*/               @P1 BRA `(.L_x_1) ;
        /*0040*/                   EXIT ;
.L_x_2:
        /*0050*/                   IADD3 R2, R2, 0x1, RZ ;
        /*0060*/                   IADD3 R3, R2, 0x1, RZ ;
        /*0070*/                   IADD3 R4, R2, 0x1, RZ ;
        /*0080*/                   BRA `(.L_x_2) ;
.text.smnn_sweep:
        /*0000*/                   EXIT ;
"""


@pytest.fixture
def sass(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import sass

    yield sass
    del sys.modules["sass"]


def test_counts_all_instructions_and_those_of_the_loop_that_works_most(sass) -> None:
    found = sass.kernels(TEXT)
    assert found["smnn_back"] == (["LDC", "DFMA", "LDG", "BRA", "EXIT", *["IADD3"] * 3, "BRA"], ["DFMA", "LDG", "BRA"])
    assert found["smnn_sweep"] == (["EXIT"], [])
