"""The benchmark program on problems that take no time."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the benchmarks compare with solvers in PyTorch")
pytest.importorskip("tqdm", reason="the benchmarks need tqdm")

import smnn_core as smnn
from benchmarks import __main__ as program
from benchmarks import memory, report, roofline, store, timing
from benchmarks.banded import banded_solve
from benchmarks.cases import CASES, SOLVERS, Case, forward

TINY = Case("lorenz", 2, 20, 1, 3, 1)


def test_compiled_steps_are_timed_beside_eager_ones():
    from benchmarks import compile_torch

    (row,) = compile_torch.measure(((2, 5),), rounds=1, backend="eager")
    assert len(compile_torch.table([row])) == 3
    assert min(row["eager"], row["compiled"]) > 0


def test_measure_takes_at_least_five_runs_and_a_slow_function_once(monkeypatch):
    monkeypatch.setattr(timing, "SLOW", 0.01)
    monkeypatch.setattr(timing, "LEAST", 0.0)
    clock = [0.0]
    calls = {"quick": 0, "slow": 0, "compared": 0}

    def function(name, seconds):
        def run():
            calls[name] += 1
            clock[0] += seconds

        return run

    functions = {"quick": function("quick", 0), "slow": function("slow", 0.02), "compared": function("compared", 0.02)}
    results = timing.measure(functions, fewer_if_slow={"quick", "slow"}, clock=lambda: clock[0])
    assert {name: t.runs for name, t in results.items()} == {"quick": 5, "slow": 1, "compared": 5}
    assert calls == {"quick": 6, "slow": 1, "compared": 6}
    assert results["slow"].seconds >= 0.02


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_cases_are_solved_alike_by_the_library_and_the_published_solver(name, dtype):
    """A race between solvers that give different answers, or of one that breaks down, would mean nothing."""
    case = next(case for case in CASES if case.name == name)
    small = Case(name, min(case.batch, 4), min(case.T, 40), case.V, case.K, case.Q, case.shared)
    inputs = small.inputs(dtype)
    A, _ = smnn.dense_system(*(x.numpy() for x in inputs), scheme=smnn.TAYLOR)
    y, published = (forward(SOLVERS[solver], inputs)().numpy() for solver in ("smnn", "smnn_cholesky"))
    tolerance = 10 * np.linalg.cond(A).max() ** 2 * np.finfo(dtype).eps
    assert tolerance < 0.1
    assert np.abs(y - published).max() <= tolerance * np.abs(y).max()


def test_banded_solve_solves_the_case():
    case = Case("long", 1, 30, 2, 3, 2)
    y = forward(SOLVERS["smnn"], case.inputs("float64"))().numpy()
    np.testing.assert_allclose(
        banded_solve(case, "float64")().reshape(y.shape), y, rtol=1e-8, atol=1e-8 * np.abs(y).max()
    )


def test_flops_count_a_plain_qr():
    """With nothing to apply the reflections to, the formula is LAPACK's 2 n^2 (p - n/3)."""
    case = Case("one", 1, 1, 1, 3, 1)
    n, p, k = 3, 7, 4
    expected = 2 * n**2 * (p - n / 3) + k * (4 * p * n - 2 * n**2) + 3 * n**2
    assert roofline.nominal_flops(case, backward=False) == expected
    assert roofline.nominal_bytes(case, 8, backward=False) == 8 * (3 + 1 + 1 + 3)


def test_the_tables_say_what_was_measured(monkeypatch):
    monkeypatch.setattr(timing, "LEAST", 0.0)
    timings = program.time_case(TINY, "float64", mnn=True)
    assert {row["solver"] for row in timings} == set(SOLVERS)
    results = {
        "machine": {"cpu": "some CPU", "threads": 2, "torch": "2"},
        "config": {"engines": {"array_api": "available"}},
        "timings": timings,
        "memory": [{"case": "lorenz", "dtype": "float64", "solver": "smnn", "ratio": 7.0}],
        "banded": [],
        "scaling": [],
        "flatness": [{"solver": "smnn", "batch": 1, "what": "forward", "T": [1000, 10000], "ratio": 2.0}],
        "peak": {"GB/s": 10.0, "GFLOP/s": 10.0, "how": "measured"},
    }
    results["roofline"] = program.measure_roofline(results)
    text = report.text(results)
    assert "7.0x" in text
    assert "largest / smallest 2.00x" in text
    ((*key, ratio), *_) = report.ratios(results)
    assert key == ["lorenz", "float64", "forward"]
    (axes,) = report.draw_ratios(results).axes
    assert [text.get_text().split()[0] for text in axes.texts] == [f"{r:.0f}x" for *_, r in report.ratios(results)]
    assert f"{ratio:.1f}x" in text


@pytest.mark.skipif(not memory.available(), reason="needs /proc/self/clear_refs to reset the peak of resident memory")
def test_memory_counts_at_least_solution_and_gradients(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "adapters")
    case = next(case for case in CASES if case.name == "lorenz")
    outputs = (case.n + case.n + 2) / (case.n + 2)
    assert outputs * 0.95 <= memory.peak_ratio("smnn", case, "float64") <= 200


def test_libraries_that_disagree_end_the_benchmark_of_posteriors():
    for name in ("flint", "jax"):
        pytest.importorskip(name, reason=f"the benchmark of posteriors needs {name}")
    from benchmarks.posterior import compare

    mean, variance = np.ones((1, 4, 2, 3)), np.ones((1, 4, 2, 3))
    results = {"smnn": (mean, variance), "dynamax": (mean.reshape(1, 4, 6), variance), "tinygp": (0 * mean, variance)}
    compare(results, "smnn", ("means", "variances"))
    with pytest.raises(RuntimeError, match=r"dynamax: variances differ by 1\.0e-04"):
        compare(results | {"dynamax": (mean, 1.0001 * variance)}, "smnn", ("means", "variances"))
    with pytest.raises(RuntimeError, match="cuthbert: means differ by nan"):
        compare(results | {"cuthbert": (np.nan * mean, variance)}, "smnn", ("means", "variances"))


@pytest.mark.parametrize("name", ["results.json", "results.json.gz"])
def test_results_are_saved_a_line_a_row(tmp_path, name):
    content = {"machine": {"cores": 2}, "rows": [{"seconds": 1 / 3, "of": [1, 2.00001]}, {"seconds": 1e-9, "of": []}]}
    path = tmp_path / "new" / name
    store.save(path, content)
    first = path.read_bytes()
    assert store.load(path) == {
        "machine": {"cores": 2},
        "rows": [{"seconds": 0.3333, "of": [1, 2.0]}, {"seconds": 1e-9, "of": []}],
    }
    store.save(path, store.load(path))
    assert path.read_bytes() == first
    assert len(store.dumps(content["rows"]).splitlines()) == 2 + 2
    assert [p.name for p in path.parent.iterdir()] == [name]


@pytest.mark.parametrize(("busy", "share"), [(0, 0.0), (50, 0.25), (200, 1.0)])
def test_times_of_a_busy_machine_are_not_saved(tmp_path, monkeypatch, busy, share):
    """Two processors over a second of 100 ticks each, of which others take some."""
    stat = tmp_path / "stat"
    monkeypatch.setattr(store, "STAT", stat)
    lines = iter([f"cpu {1000 + busy // 2} 0 {busy - busy // 2} {5000 + 200 - busy} 0 0 0 0 0 0\ncpu0 1\n"])
    stat.write_text("cpu 1000 0 0 5000 0 0 0 0 0 0\ncpu0 1\n")
    monkeypatch.setattr(store.time, "sleep", lambda _: stat.write_text(next(lines)))
    if share > store.BUSY:
        with pytest.raises(SystemExit, match=f"{100 * share:.0f} % of the processors are in use before measuring"):
            store.idle()
    else:
        store.idle()


def test_times_are_saved_where_the_machine_was_idle_before_and_after(monkeypatch):
    asked = []
    monkeypatch.setattr(store, "idle", lambda when="before": asked.append(when))
    with store.measuring(False):
        pass
    assert asked == []
    with store.measuring(True):
        assert asked == ["before"]
    assert asked == ["before", "after"]


def test_every_benchmark_that_saves_times_asks_for_an_idle_machine():
    no_times = {"accuracy", "grids", "memory", "store", "systems", "tables"}
    texts = {path: path.read_text("utf-8") for path in Path(store.__file__).parent.rglob("*.py")}
    saving = {path: text for path, text in texts.items() if re.search(r"\bsave\(|\.write_text\(", text)}
    timed = {path: text for path, text in saving.items() if path.stem not in no_times}
    assert len(timed) > 8
    assert not [path for path, text in timed.items() if "store.measuring(" not in text and "store.idle(" not in text]


def test_lines_of_the_scaling_picture_have_one_colour_for_each_solver_and_their_names():
    rows = [
        {"solver": solver, "what": what, "batch": batch, "T": T, "nanoseconds": 10.0 * batch}
        for solver in report.COLOURS
        for what in report.DIRECTIONS
        for batch in (1, 64)
        for T in (1000, 10_000)
    ]
    (axes,) = report.draw_scaling({"scaling": rows}).axes
    assert len({line.get_color() for line in axes.lines}) == len(report.COLOURS)
    assert {text.get_text().strip() for text in axes.texts} == {
        f"{s}, batch {b}" for s in report.COLOURS for b in (1, 64)
    }
