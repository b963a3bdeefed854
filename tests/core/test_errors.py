"""Bad input raises before any work, and the message says what was found, what was expected and what to change."""

from __future__ import annotations

from typing import Any

import array_api_strict
import numpy as np
import pytest
import torch

import smnn_core as smnn

T, V, K, Q = 6, 2, 3, 2


def arguments(**changed: Any) -> dict[str, Any]:
    """Good arguments of solve_ode, some replaced."""
    good = {
        "coefficients": np.ones((T, Q, V, K)) + np.eye(Q, V)[..., None],
        "rhs": np.ones((T, Q)),
        "initial_values": np.ones((1, V, 2)),
        "step_sizes": np.full(T - 1, 0.1),
    }
    return good | changed


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"coefficients": np.ones((V, K))}, r"coefficients must have shape .*at least 4 axes; got of shape \(2, 3\)"),
        ({"rhs": np.ones(Q)}, r"rhs must have shape .*at least 2 axes; got of shape \(2,\)"),
        (
            {"initial_values": np.ones((V, 2))},
            r"initial_values must .*at least 3 axes; got of shape \(2, 2\)",
        ),
        ({"step_sizes": np.array(0.1)}, r"step_sizes must have shape .*at least 1 axes; got of shape \(\)"),
        ({"rhs": np.ones((T, Q + 1))}, r"rhs must have shape \(\.\.\., 6 or 1, 2\); got of shape \(6, 3\)"),
        ({"rhs": np.ones((T + 1, Q))}, r"rhs implies T = 7 time points, coefficients implies T = 6"),
        ({"step_sizes": np.ones(T)}, r"step_sizes implies T = 7 time points, coefficients implies T = 6"),
        ({"initial_values": np.ones((1, V + 1, 2))}, r"initial_values must have shape \(\.\.\., 1, 2, 2\)"),
        ({"initial_values": np.ones((T + 1, V, 2))}, r"T_init = 7 time points; expected 0 to T = 6"),
        ({"initial_values": np.ones((1, V, K + 1))}, r"R_init = 4 orders; expected 0 to R\+1 = 3"),
        ({"coefficients": np.ones((T, 0, V, K))}, "must have at least one equation, variable and order"),
        (
            {"rhs": np.ones((4, T, Q)), "step_sizes": np.full((3, T - 1), 0.1)},
            r"the batch axes of rhs, \(4,\), do not broadcast with those of the other arguments",
        ),
        (
            {"coefficients": np.ones((4, T, Q, V, K)), "step_sizes": np.full((3, T - 1), 0.1)},
            r"the batch axes of step_sizes, \(3,\), do not broadcast",
        ),
        (
            {"weights": smnn.Weights(equation=np.ones((T, Q + 1)))},
            r"weights.equation must .*got of shape \(6, 3\)",
        ),
        (
            {"weights": smnn.Weights(initial=np.ones((1, V, 3)))},
            r"weights.initial must .*got of shape \(1, 2, 3\)",
        ),
        ({"weights": smnn.Weights(smoothness=np.ones(T))}, r"weights.smoothness implies T = 7 time points"),
        ({"n_steps": 9}, r"coefficients implies T = 6 time points, n_steps implies T = 9"),
    ],
)
def test_shapes(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(smnn.ShapeError, match=message):
        smnn.solve_ode(**arguments(**changed))


def test_fewer_than_two_time_points() -> None:
    with pytest.raises(smnn.ShapeError, match="n_steps implies T = 1 time points; at least 2 are needed"):
        smnn.solve_ode(np.ones((1, 1, 1, 2)), np.ones((1, 1)), np.ones((1, 1, 1)), np.ones(1), n_steps=1)


def test_unknown_number_of_time_points() -> None:
    with pytest.raises(smnn.ArgumentError, match=r"every time axis has length 1\. Pass n_steps=T"):
        smnn.solve_ode(np.ones((1, 1, 1, 2)), np.ones((1, 1)), np.ones((1, 1, 1)), np.ones(1))


def test_numbers_of_initial_values_must_be_integers() -> None:
    with pytest.raises(TypeError, match=r"n_initial_steps must be an integer, got float"):
        smnn.factorize(np.ones((4, 1, 1, 2)), np.ones(3), n_initial_steps=1.0, n_initial_orders=1)
    with pytest.raises(TypeError, match=r"n_initial_orders must be an integer, got NoneType"):
        smnn.factorize(np.ones((4, 1, 1, 2)), np.ones(3), n_initial_steps=1, n_initial_orders=None)


def test_n_steps_must_be_an_integer() -> None:
    with pytest.raises(TypeError, match="n_steps must be an integer or None, got float"):
        smnn.solve_ode(**arguments(n_steps=6.0))


@pytest.mark.parametrize("name", ["coefficients", "rhs", "initial_values", "step_sizes"])
@pytest.mark.parametrize("dtype", ["int64", "float16", "complex128", "bool"])
def test_dtypes(name: str, dtype: str) -> None:
    good = arguments()
    with pytest.raises(smnn.DTypeError, match=f"{name} has dtype {dtype}; expected float32 or float64"):
        smnn.solve_ode(**arguments(**{name: good[name].astype(dtype)}))


def test_dtype_advice_is_that_of_the_library() -> None:
    tensors = {name: torch.from_numpy(x) for name, x in arguments().items()}
    with pytest.raises(smnn.DTypeError, match=r"by rhs\.to\(torch\.float64\)"):
        smnn.solve_ode(**tensors | {"rhs": tensors["rhs"].int()})
    with pytest.raises(smnn.DTypeError, match=r"by rhs\.astype\('float64'\)"):
        smnn.solve_ode(**arguments(rhs=arguments()["rhs"].astype(int)))


@pytest.mark.parametrize("name", ["rhs", "initial_values", "step_sizes"])
def test_mixed_dtypes(name: str) -> None:
    mixed = arguments(**{name: arguments()[name].astype(np.float32)})
    with pytest.raises(smnn.DTypeError, match=f"{name} has dtype float32, coefficients has float64"):
        smnn.solve_ode(**mixed)


def test_weights_of_another_dtype() -> None:
    with pytest.raises(smnn.DTypeError, match=r"weights\.equation has dtype float32, coefficients has float64"):
        smnn.solve_ode(**arguments(weights=smnn.Weights(equation=np.ones((T, Q), dtype=np.float32))))


@pytest.mark.parametrize("name", ["coefficients", "rhs", "initial_values", "step_sizes"])
@pytest.mark.parametrize("convert", [torch.asarray, array_api_strict.asarray], ids=["torch", "array_api_strict"])
def test_mixed_namespaces(name: str, convert: Any) -> None:
    mixed = arguments(**{name: convert(arguments()[name])})
    with pytest.raises(smnn.NamespaceError, match="all arguments must come from one array library"):
        smnn.solve_ode(**mixed)


@pytest.mark.parametrize("name", ["coefficients", "rhs", "initial_values", "step_sizes"])
@pytest.mark.parametrize("wrong", [None, 1.0, [[1.0]], "text"], ids=["None", "number", "list", "str"])
def test_not_an_array(name: str, wrong: Any) -> None:
    if name == "step_sizes" and wrong == 1.0:
        return  # a number is one step for all
    with pytest.raises(smnn.NamespaceError, match=f"{name} must be an array, got {type(wrong).__name__}"):
        smnn.solve_ode(**arguments(**{name: wrong}))


def test_mixed_devices() -> None:
    """array-api-strict has devices without hardware."""
    good = {k: array_api_strict.asarray(x) for k, x in arguments().items()}
    good["rhs"] = array_api_strict.asarray(arguments()["rhs"], device=array_api_strict.Device("device1"))
    with pytest.raises(smnn.DeviceError, match=r"rhs is on .*device1.*, coefficients on .*: move all arguments to one"):
        smnn.solve_ode(**good)


def test_zero_step_size() -> None:
    s = np.full(T - 1, 0.1)
    s[2] = 0.0
    with pytest.raises(smnn.ArgumentError, match="step_sizes contains a zero: two time points cannot coincide"):
        smnn.solve_ode(**arguments(step_sizes=s))


def test_weights_and_scheme_of_the_wrong_type() -> None:
    with pytest.raises(TypeError, match=r"weights must be .*Weights\(.*got dict"):
        smnn.solve_ode(**arguments(weights={"equation": 1.0}))
    with pytest.raises(TypeError, match=r"scheme must be a Scheme .*got str"):
        smnn.solve_ode(**arguments(scheme="taylor"))


def test_unknown_engine() -> None:
    with pytest.raises(smnn.EngineError, match="unknown engine 'gpu'; expected 'auto' or one of"):
        smnn.solve_ode(**arguments(engine="gpu"))


def test_engine_that_cannot_serve() -> None:
    strict = {k: array_api_strict.asarray(x) for k, x in arguments().items()}
    with pytest.raises(smnn.EngineError, match=r"engine 'cpu' cannot serve this problem: .* Use engine='auto'"):
        smnn.solve_ode(**strict, engine="cpu")


def test_unknown_mode_of_show_config() -> None:
    with pytest.raises(ValueError, match="mode must be 'stdout' or 'dicts', got 'json'"):
        smnn.show_config("json")


def test_shape_of_the_output_gradient() -> None:
    _, vjp = smnn.solve_ode_vjp(**arguments())
    with pytest.raises(smnn.ShapeError, match=r"g must have the shape of y, \(6, 2, 3\); got \(6, 2, 2\)"):
        vjp(np.ones((6, 2, 2)))


def test_right_hand_sides_that_do_not_fit_a_factorization() -> None:
    good = arguments()
    f = smnn.factorize(good["coefficients"], good["step_sizes"], n_initial_steps=1, n_initial_orders=2)
    with pytest.raises(smnn.ShapeError, match=r"rhs must have shape \(\.\.\., 6 or 1, 2\)"):
        f.solve(np.ones((T, Q + 1)), good["initial_values"])
    with pytest.raises(smnn.ShapeError, match=r"initial_values must have shape \(\.\.\., 1, 2, 2\)"):
        f.solve(good["rhs"], np.ones((2, V, 2)))
    with pytest.raises(smnn.ShapeError, match=r"g must have shape \(\.\.\., 6, 2, 3\)"):
        f.normal_solve(np.ones((T, V, K + 1)))
    with pytest.raises(smnn.DTypeError, match="rhs has dtype float32"):
        f.solve(good["rhs"].astype(np.float32), good["initial_values"])


class TestAutomaticDifferentiation:
    """Tracing the elimination would give NaN: the adapters have the derivatives."""

    @pytest.mark.parametrize("name", ["coefficients", "rhs", "initial_values", "step_sizes"])
    @pytest.mark.parametrize("function", [smnn.solve_ode, smnn.solve_ode_vjp])
    def test_of_pytorch(self, name: str, function: Any) -> None:
        tensors = {k: torch.from_numpy(x) for k, x in arguments().items()}
        tensors[name].requires_grad_()
        with pytest.raises(smnn.ArgumentError, match=r"cannot be differentiated.*smnn_torch"):
            function(**tensors)
        with torch.no_grad():
            assert function(**tensors) is not None

    def test_of_pytorch_in_weights_and_factors(self) -> None:
        c, _, _, s = (torch.from_numpy(x) for x in arguments().values())
        w = smnn.Weights(equation=torch.ones(Q, dtype=c.dtype, requires_grad=True))
        with pytest.raises(smnn.ArgumentError, match=r"smnn_core\.factorize cannot be differentiated"):
            smnn.factorize(c, s, n_initial_steps=1, n_initial_orders=2, weights=w)

    def test_of_jax(self) -> None:
        jax = pytest.importorskip("jax")
        arrays = {k: jax.numpy.asarray(x, "float32") for k, x in arguments().items()}
        f = jax.jit(lambda s: smnn.solve_ode(**arrays | {"step_sizes": s}).sum())
        assert np.isfinite(f(arrays["step_sizes"]))
        for derive in (jax.grad, jax.jacfwd):
            with pytest.raises(smnn.ArgumentError, match=r"cannot be differentiated.*smnn_jax"):
                derive(f)(arrays["step_sizes"])


@pytest.mark.parametrize("engine", ["auto", "cpu", "array_api", "other"])
@pytest.mark.parametrize("batch", [(), (0,), (3,)])
def test_steps_of_zero_are_found_by_every_engine(engine: str, batch: tuple[int, ...], monkeypatch: Any) -> None:
    """In the first call and in those after it; "other" does not look at values itself."""
    from smnn_core.engines import ENGINES, cpu

    if engine == "cpu" and cpu._kernels is None:
        pytest.skip("the kernels are not compiled here")
    monkeypatch.setitem(ENGINES, "other", ENGINES["array_api"])
    good = arguments(
        rhs=np.ones((*batch, T, Q)), coefficients=np.broadcast_to(arguments()["coefficients"], (*batch, T, Q, V, K))
    )
    smnn.solve_ode(**good, engine=engine)
    bad = {**good, "step_sizes": np.where(np.arange(T - 1) == 2, 0.0, 0.1)}
    for _ in range(2):
        with pytest.raises(smnn.ArgumentError, match="step_sizes contains a zero"):
            smnn.solve_ode(**bad, engine=engine)
        with pytest.raises(smnn.ArgumentError, match="step_sizes contains a zero"):
            smnn.factorize(bad["coefficients"], bad["step_sizes"], n_initial_steps=1, n_initial_orders=2, engine=engine)


@pytest.mark.parametrize("engine", [None, True, b"cpu", ["cpu"], np])
def test_engines_are_named(engine: Any) -> None:
    with pytest.raises(smnn.EngineError, match="engine must be a string, 'auto' or a name, got"):
        smnn.solve_ode(**arguments(), engine=engine)


def test_masked_arrays() -> None:
    rhs = np.ma.array(np.ones((T, Q)), mask=np.eye(T, Q, dtype=bool))
    with pytest.raises(smnn.NamespaceError, match=r"rhs is a masked array, .*pass rhs\.filled\(0\)"):
        smnn.solve_ode(**arguments(rhs=rhs))


def test_sizes_that_are_no_integers() -> None:
    for n_steps in (np.array([T]), 2.5, "6", True):
        with pytest.raises(TypeError, match="n_steps must be an integer or None, got"):
            smnn.solve_ode(**arguments(), n_steps=n_steps)
    smnn.solve_ode(**arguments(), n_steps=np.int64(T))


def test_times_in_place_of_steps() -> None:
    with pytest.raises(smnn.ShapeError, match=r"Are step_sizes the times\? .*numpy\.diff\(t\)"):
        smnn.solve_ode(**arguments(step_sizes=np.arange(float(T))))
    with pytest.raises(smnn.ArgumentError, match=r"the differences of the times, such as numpy\.diff\(t\)"):
        smnn.solve_ode(np.ones((1, 1, 1, 2)), np.ones((1, 1)), np.ones((1, 1, 1)), np.arange(5.0))


def test_more_time_points_than_can_be_numbered() -> None:
    with pytest.raises(smnn.ShapeError, match="T = 2147483648 time points; at most 2147483647"):
        smnn.solve_ode(np.ones((1, 1, 1, 2)), np.ones((1, 1)), np.ones((1, 1, 1)), 0.1, n_steps=2**31)
