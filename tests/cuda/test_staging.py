"""Fields that go through shared memory: the same results to the bit as without, and chosen where they are to be."""

from __future__ import annotations

import ctypes
import shutil
import subprocess

import numpy as np
import pytest
from _emulator import COMPILER, FLAGS, HERE, Emulator
from _engine_cases import gradients_by_name, random_problem
from hypothesis import given, settings
from hypothesis import strategies as st

import smnn_core as smnn
from smnn_core._problem import Problem, Rows
from smnn_core.engines._cuda import host, layout, tiles
from smnn_core.engines._cuda.grain import Grain
from smnn_core.engines._cuda.source import Specialization

needs_compiler = pytest.mark.skipif(not shutil.which(COMPILER), reason="no C++ compiler")

FINE = Grain(lanes=1000, shortest=3, fewest=2, radix=2, last=2, gain=np.inf)
RAGGED = Grain(lanes=40, shortest=5, fewest=2, radix=4, last=3, gain=np.inf)
WHOLE = Grain(lanes=1)
SIZES = [(1, 3, 1, "taylor", "float64"), (1, 3, 1, "hermite", "float32"), (2, 2, 2, "custom", "float64")]


def results(device: Emulator, problem: Problem) -> dict[str, np.ndarray]:
    """All that an engine computes."""
    rng = np.random.default_rng(1)
    y, factor = host.solve_problem(device, problem)
    g = rng.uniform(-1, 1, y.shape).astype(y.dtype)
    system = problem.system
    rows = system.scheme.matrices(system.K)[0].shape[0]
    smoothness = rng.uniform(-1, 1, (*problem.batch, system.n_steps - 1, system.V, rows)).astype(y.dtype)
    found = {
        "y": y,
        "solve": factor.solve(Rows(problem.rhs, problem.initial_values, smoothness)),
        "normal solve": factor.normal_solve(g),
        "undetermined": factor.undetermined,
    }
    return found | gradients_by_name(factor.adjoint(problem, y, g))


def mixed_problem(
    rng: np.random.Generator, batch: tuple[int, ...], T: int, size: tuple[int, int, int, str, str], T_init: int
) -> Problem:
    """Some fields that the systems, or the points, or all of both share; weights that are arrays or not."""
    V, K, Q, scheme, dtype = size
    problem = random_problem(rng, batch, T, V, K, Q, scheme=scheme, T_init=min(T_init, T), dtype=dtype)
    system = problem.system

    def shared(x: np.ndarray, inner: int) -> np.ndarray:
        """Some axes of the batch, and of time, cut to one element."""
        cut = [slice(0, 1) if rng.random() < 0.3 else slice(None) for _ in range(x.ndim - inner)]
        return x[tuple(cut)]

    def weight(*inner: int) -> np.ndarray:
        if rng.random() < 0.3:
            return np.ones((), dtype)
        return shared(rng.uniform(0.5, 2, (*batch, *inner)).astype(dtype), len(inner) - 1)

    return Problem.build(
        shared(system.coefficients, 3),
        shared(problem.rhs, 1),
        problem.initial_values,
        shared(system.step_sizes, 0),
        n_steps=T,
        scheme=system.scheme,
        weights=smnn.Weights(weight(T, Q), weight(min(T_init, T), V, K), weight(T - 1)),
    )


@needs_compiler
@settings(max_examples=40)
@given(
    st.sampled_from([(), (1,), (2,), (31,), (32,), (33,), (3, 5), (2, 1, 20)]),
    st.integers(2, 40),
    st.sampled_from(SIZES),
    st.sampled_from([FINE, RAGGED, WHOLE]),
    st.integers(1, 5),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_results_are_those_without_staging_to_the_bit(batch, T, size, grain, T_init, backwards, seed) -> None:
    problem = mixed_problem(np.random.default_rng(seed), batch, T, size, T_init)
    expected = results(Emulator(grain, stage=False), problem)
    for name, value in results(Emulator(grain, backwards=backwards), problem).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@needs_compiler
@pytest.mark.parametrize("size", [(2, 3, 2, "taylor", "float64"), (1, 2, 1, "hermite", "float32")])
@pytest.mark.parametrize("grain", [RAGGED, WHOLE], ids=["divided", "whole"])
def test_looped_code_and_large_blocks(size, grain) -> None:
    problem = mixed_problem(np.random.default_rng(2), (35,), 17, size, 2)
    expected = results(Emulator(grain, stage=False), problem)
    for name, value in results(Emulator(grain, block=128), problem).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


class Recorder(Emulator):
    """Keeps what jobs say of staging, by kernel."""

    def launch(self, module: Specialization, kernel: str, threads: int, job: np.ndarray) -> None:
        super().launch(module, kernel, threads, job)
        if kernel.removeprefix("smnn_") in tiles.STAGED:
            job = job.view(layout.point_job(module.dtype, module.K))
            flags = {name: job["in"][0, f]["staged"] for f, name in enumerate(layout.FIELDS)}
            flags |= {f"d {layout.FIELDS[f]}": job["gradient"][0, f]["staged"] for f in range(layout.N_GRADIENTS)}
            self.flags[kernel] = {name for name, flag in (flags | {"x": job["x"][0]["staged"]}).items() if flag}

    def __init__(self, grain: Grain, **options) -> None:
        super().__init__(grain, **options)
        self.flags: dict[str, set[str]] = {}


def flags_of(problem: Problem, grain: Grain, **options) -> dict[str, set[str]]:
    """Fields that go through tiles in a solve and its adjoint."""
    device = Recorder(grain, **options)
    y, factor = host.solve_problem(device, problem)
    found = {"back": device.flags["smnn_back"]}
    factor.adjoint(problem, y, np.ones_like(y))
    return {name: device.flags[f"smnn_{name}"] for name in ("sweep", "forward", "refine", "contract")} | found


@needs_compiler
@pytest.mark.parametrize("grain", [FINE, WHOLE], ids=["divided", "whole"])
@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_arrays_with_the_batch_first_are_staged(batch, grain) -> None:
    flags = flags_of(random_problem(np.random.default_rng(3), batch, 31, 1, 3, 1), grain)
    inputs = {"coefficients", "rhs", "step_sizes"}
    assert flags == {
        "sweep": inputs,
        "forward": {"g", "rest"},
        "back": {"x"},
        "refine": inputs | {"g", "total", "rest", "x"},  # (the last one: y is not given any more)
        "contract": inputs | {"y", "total"} | {f"d {name}" for name in inputs},
    }


@needs_compiler
def test_what_neighbours_share_or_hold_side_by_side_is_read_where_it_lies() -> None:
    rng = np.random.default_rng(4)
    c, s = rng.uniform(1, 2, (20, 1, 1, 3, 5)), rng.uniform(0.2, 0.5, 19)
    problem = Problem.build(c.transpose(4, 0, 1, 2, 3), rng.uniform(-1, 1, (20, 1)), np.ones((5, 1, 1, 3)), s)
    assert flags_of(problem, WHOLE)["sweep"] == set()
    # chunks of one system lie one after the other, whatever systems share
    assert flags_of(problem, FINE)["sweep"] == {"rhs", "step_sizes"}


@needs_compiler
def test_without_staging_nothing_is_staged() -> None:
    flags = flags_of(random_problem(np.random.default_rng(5), (5,), 31, 1, 3, 1), FINE, stage=False)
    assert set().union(*flags.values()) == set()


@needs_compiler
@pytest.mark.parametrize("grain", [FINE, WHOLE], ids=["divided", "whole"])
def test_a_wrong_place_in_the_tile_shows(grain, monkeypatch) -> None:
    """The host's idea of the padding is not the kernels': what nobody copied is NaN, or another's."""
    problem = random_problem(np.random.default_rng(6), (33,), 20, 1, 3, 1)
    expected = results(Emulator(grain, stage=False), problem)

    def displaced(job: np.ndarray, sizes: dict[str, tiles.Tile], lines: dict[int, tuple[int, ...]]) -> np.ndarray:
        wrong = {name: tile._replace(pitch=tile.pitch + 1) for name, tile in sizes.items()}
        return tiles.staged(job, wrong, lines)

    monkeypatch.setattr(host, "staged", displaced)
    found = results(Emulator(grain), problem)
    for name in ("y", "normal solve", "coefficients", "rhs", "step_sizes"):
        assert not np.array_equal(found[name], expected[name]), name


@needs_compiler
@pytest.mark.parametrize(
    ("waiting", "members", "wrong"),
    [(32, 0xFFFFFFFF, 0), (0, 0xFFFFFFFF, 0), (31, 0xFFFFFFFF, 2), (1, 0xFFFFFFFF, 2), (8, 0xFF, 0), (9, 0xFF, 3)],
)
def test_the_emulator_finds_threads_that_wait_for_one_that_is_done(waiting, members, wrong, tmp_path) -> None:
    """Programs that a device would hang on, or do wrong."""
    (tmp_path / "kernel.cpp").write_text(f"""
        #include <type_traits>
        #include "grid.hpp"
        __shared__ int used;
        void kernel(int) {{ if (int(threadIdx.x) < {waiting}) __syncwarp({members}u); used = 0; }}
        extern "C" int run() {{ int job = 0; return run_grid<int>(kernel, 1, 32, false, &job); }}
    """)
    made = tmp_path / "kernel.so"
    subprocess.run([COMPILER, *FLAGS, f"-I{HERE}", str(tmp_path / "kernel.cpp"), "-o", str(made)], check=True)
    assert ctypes.CDLL(str(made)).run() == wrong


@pytest.mark.parametrize(
    ("shape", "order", "batch_strides", "chunked", "far"),
    [
        ((7, 20, 1, 1, 3), "C", [60], False, True),
        ((7, 20, 1, 1, 3), "F", [1], False, False),
        ((20, 1, 1, 3), "C", [0], False, False),  # shared by all systems
        ((20, 1, 1, 3), "C", [0], True, True),
        ((20, 1, 1, 3), "C", [], False, True),  # the only one
        ((5, 7, 20, 1, 1, 3), "C", [60, 0], False, False),
        ((7, 1, 1, 1, 3), "C", [3], False, False),  # constant in time
        ((7, 20, 1, 1, 1), "C", [20], False, False),  # one number for all orders
    ],
)
def test_lanes_that_lie_far_apart(shape, order, batch_strides, chunked, far) -> None:
    assert tiles.far_apart(np.zeros(shape, order=order), (20, 1, 1, 3), batch_strides, chunked) is far


@given(
    st.sampled_from(list(tiles.STAGED)),
    st.sampled_from(["float32", "float64"]),
    st.integers(1, 12),
    st.integers(1, 8),
    st.integers(1, 40),
)
def test_tiles_fit_in_shared_memory(kernel, dtype, V, K, Q) -> None:
    found = tiles.tiles_of(kernel, dtype, V, K, Q)
    assert set(found) <= set(tiles.STAGED[kernel])
    counts = {"coefficients": Q * V * K, "rhs": Q, "weights.equation": Q, "step_sizes": 1}
    need = 0
    for name, (points, pitch) in found.items():
        assert points & (points - 1) == 0
        assert pitch > tiles.WARP
        copies = 2 if name == "totals" else 1
        need += tiles.WARPS * points * counts.get(name, V * K) * pitch * np.dtype(dtype).itemsize * copies
    assert need < tiles.SHARED


@given(st.sampled_from([4, 8]), st.integers(3, 24))
def test_threads_that_copy_seldom_meet_in_a_bank(itemsize, count) -> None:
    """All threads of a warp in float32, of half a warp in float64."""
    together = tiles.BANKS // itemsize
    threads = np.arange(tiles.WARP // count * count).reshape(-1)
    for some in np.split(threads, range(together, threads.size, together)):
        banks = (some % count * tiles._pitch(count, itemsize) + some // count) % together
        assert np.unique(banks, return_counts=True)[1].max() <= (1 if itemsize == 4 else 2)
