"""Any input of the compiled engine has an answer or an error: it never crashes the process."""

from __future__ import annotations

import numpy as np
import pytest

import smnn_core as smnn
from smnn_core._problem import System, inputs_by_field
from smnn_core.engines import cpu, select

pytestmark = pytest.mark.skipif(cpu._kernels is None, reason="the kernels are not compiled here")


def arguments(batch: tuple[int, ...] = (), T: int = 12, V: int = 1, K: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    c = rng.normal(size=(*batch, T, V, V, K))
    return [c, rng.normal(size=(*batch, T, V)), rng.normal(size=(*batch, 1, V, K - 1)), np.full((*batch, T - 1), 0.1)]


def misaligned(x: np.ndarray) -> np.ndarray:
    """The same values at addresses that are no multiple of their size."""
    raw = np.zeros(x.nbytes + 1, np.uint8)
    view = raw[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    assert not view.flags.aligned
    return view


def in_records(x: np.ndarray) -> np.ndarray:
    """The same values as a field of records, 12 bytes apart."""
    records = np.zeros(x.shape, np.dtype([("value", x.dtype), ("other", np.float32)]))
    records["value"] = x
    return records["value"]


@pytest.mark.parametrize("lay_out", [misaligned, in_records])
def test_elements_at_odd_addresses(lay_out) -> None:
    given = arguments((3,))
    y, vjp = smnn.solve_ode_vjp(*given, engine="cpu")
    odd, odd_vjp = smnn.solve_ode_vjp(*map(lay_out, given), engine="cpu")
    np.testing.assert_array_equal(odd, y)
    np.testing.assert_array_equal(odd_vjp(lay_out(y)).coefficients, vjp(y).coefficients)


def test_read_only_arrays() -> None:
    given = arguments()
    for x in given:
        x.flags.writeable = False
    y, vjp = smnn.solve_ode_vjp(*given, engine="cpu")
    y.flags.writeable = False
    assert vjp(y).rhs.shape == given[1].shape


@pytest.mark.parametrize("i", range(4))
def test_the_other_byte_order_is_refused_with_what_to_do(i) -> None:
    given = arguments()
    given[i] = given[i].astype(given[i].dtype.newbyteorder())
    with pytest.raises(smnn.DTypeError, match="native byte order"):
        smnn.solve_ode(*given)


@pytest.mark.parametrize("batch", [(0,), (3, 0), (0, 5)])
def test_empty_batches(batch) -> None:
    y, vjp = smnn.solve_ode_vjp(*arguments(batch), engine="cpu")
    assert y.shape == (*batch, 12, 1, 3)
    gradients = vjp(y)
    assert gradients.coefficients.shape == (*batch, 12, 1, 1, 3)
    assert gradients.weights.equation.shape == ()
    assert gradients.weights.equation == 0


def test_an_empty_batch_of_one_argument_sums_to_zero_for_the_others() -> None:
    c, _, u, s = arguments()
    y, vjp = smnn.solve_ode_vjp(c, np.zeros((0, 12, 1)), u, s, engine="cpu")
    assert y.shape == (0, 12, 1, 3)
    np.testing.assert_array_equal(vjp(y).coefficients, np.zeros_like(c))


def test_no_initial_values() -> None:
    c, b, _, s = arguments()
    for u in (np.zeros((0, 1, 2)), np.zeros((1, 1, 0))):
        expected = smnn.solve_ode(c, b, u, s, engine="array_api")
        y, vjp = smnn.solve_ode_vjp(c, b, u, s, engine="cpu")
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e6 * np.finfo(float).eps * np.abs(expected).max())
        assert vjp(y).initial_values.shape == u.shape


def test_the_shortest_problem() -> None:
    given = arguments(T=2)
    expected = smnn.solve_ode(*given, engine="array_api")
    np.testing.assert_allclose(smnn.solve_ode(*given, engine="cpu"), expected, rtol=1e-10, atol=1e-12)


def system_of(c: np.ndarray) -> System:
    return System.build(
        c, np.full(c.shape[-4] - 1, 0.1, c.dtype), n_initial_steps=1, n_initial_orders=1, n_steps=None,
        scheme=smnn.TAYLOR, weights=smnn.Weights(),
    )  # fmt: skip


def test_is_chosen_for_numpy_arrays_by_itself() -> None:
    assert select("auto", system_of(np.ones((4, 1, 1, 3)))).name == "cpu"


def test_leaves_very_large_blocks_to_the_other_engine() -> None:
    V = cpu._kernels.LARGEST // 2 + 1
    system = system_of(np.ones((3, 1, V, 2)))
    assert select("auto", system).name == "blocks"
    with pytest.raises(smnn.EngineError, match=f"up to {cpu._kernels.LARGEST} unknowns per time point"):
        select("cpu", system)


def test_kernels_refuse_arrays_that_do_not_fit() -> None:
    """Below the checks of the public functions the kernels have their own."""
    system, sizes, rows = system_of(np.ones((4, 1, 1, 3))), (4, 1, 3, 1, 1, 1), np.eye(6)
    c, _, _, *others = inputs_by_field(system)
    rhs, u = np.ones((4, 1)), np.ones((1, 1, 1))
    problem = cpu._kernels.Problem(sizes, (), rows, 1e-15, (c, rhs, u, *others))
    for wrong in (np.ones((4, 1, 1, 3), np.float32), misaligned(c)):
        with pytest.raises((ValueError, TypeError)):
            cpu._kernels.Problem(sizes, (), rows, 1e-15, (wrong, rhs, u, *others))
    y = np.empty((4, 1, 3))
    other = cpu._kernels.Problem(sizes, (), rows, 1e-15, (np.ones((5, 1, 1, 3)), rhs, u, *others))
    with pytest.raises(ValueError, match="does not broadcast"):
        cpu._kernels.solve(other, y)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        cpu._kernels.solve((4, 1, 3), y)
    for wrong in (np.empty((3, 1, 3)), np.empty((4, 3, 1)).transpose(0, 2, 1)[::-1], np.empty((4, 1, 3), np.float32)):
        with pytest.raises((ValueError, TypeError)):
            cpu._kernels.solve(problem, wrong)
    for wrong in (np.eye(5), np.eye(6, dtype=np.float32), misaligned(np.eye(6))):
        with pytest.raises((ValueError, TypeError)):
            cpu._kernels.Problem(sizes, (), wrong, 1e-15, (c,))
    with pytest.raises(TypeError, match="incompatible function arguments"):
        cpu._kernels.Problem(sizes[:3], (), rows, 1e-15, (c,))


def test_kernels_of_collocation_refuse_arrays_that_do_not_fit() -> None:
    q, first, s = np.ones(1, np.intc), np.zeros(1, np.intc), np.ones((1, 2))
    given = q, first, s, np.ones((1, 1, 2, 2)), np.ones((1, 2, 2))
    lu, scale, order, HC, G = (np.ones((1, 2, n)) for n in (1, 1, 1, 1, 1))
    order = np.full((1, 2, 1), 1_000_000, np.intc)
    f, J, numbers = np.ones((1, 2, 1, 1)), np.ones((1, 2, 1, 1, 1, 2)), [np.ones(n) for n in (3, 2, 3, 2, 4, 2, 2, 1)]
    with pytest.raises(ValueError, match="order"):  # that of the first interval, which is solved, is not found again
        cpu._kernels.window_improve(
            *given, 3, 1e-12, *np.ones((3, 1)), *numbers, np.ones(1, np.intc), lu, scale, order, HC, G, f, J
        )
    with pytest.raises(ValueError, match="P"):
        cpu._kernels.window_eliminate(*given, J, np.array(1.0), lu, scale, order, HC, G)


def test_arrays_without_elements_lie_anywhere() -> None:
    c, b, _, s = arguments(V=2, K=1)
    u = np.zeros((1, 2, 0), [("pad", "u1"), ("value", "f8")])["value"]
    expected = smnn.solve_ode(c, b, np.zeros((1, 2, 0)), s, engine="cpu")
    np.testing.assert_array_equal(smnn.solve_ode(c, b, u, s, engine="cpu"), expected)
