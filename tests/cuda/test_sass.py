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


def test_counts_all_instructions_and_those_of_the_loop_over_points(sass) -> None:
    found = sass.kernels(TEXT)
    assert found["smnn_back"] == (["LDC", "DFMA", "LDG", "BRA", "EXIT", *["IADD3"] * 3, "BRA"], ["DFMA", "LDG", "BRA"])
    assert found["smnn_sweep"] == (["EXIT"], [])


def test_of_two_loops_that_work_the_last_counts(sass) -> None:
    """The first points have a loop of their own, which does more: here one that does five thirds of the other."""
    loop = "{label}:\n" + "        /*0000*/                   DMUL R2, R2, R4 ;\n" * 3 + "{more}"
    loop += "        /*0010*/               @P1 BRA `({label}) ;\n"
    more = "        /*0000*/                   DADD R2, R2, R4 ;\n" * 2
    first, second = loop.format(label=".L_x_1", more=more), loop.format(label=".L_x_2", more="")
    assert sass.kernels(f".text.smnn_sweep:\n{first}{second}")["smnn_sweep"][1] == ["DMUL"] * 3 + ["BRA"]
