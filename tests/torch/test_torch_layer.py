"""`MechanisticODE`, alone and on two processes, and `ode_forward`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import smnn_core as smnn
import smnn_torch as st
from benchmarks.baselines import smnn_cholesky
from smnn_torch._central import smnn_central

NAN = torch.nan


def net(**options: Any) -> st.MechanisticODE:
    torch.manual_seed(0)
    return st.MechanisticODE(5, n_steps=6, dtype=torch.float64, **options)


@pytest.fixture
def features() -> Tensor:
    return torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("time_invariant", [(), ("coefficients",), ("coefficients", "rhs", "step_sizes")])
def test_shapes(features: Tensor, time_invariant: tuple[str, ...]) -> None:
    layer = net(
        n_variables=2, n_equations=3, order=1, n_initial_steps=2, n_initial_orders=1, step_sizes="sample",
        time_invariant=time_invariant,
    )  # fmt: skip
    T = {name: 1 if name in time_invariant else 6 for name in ("coefficients", "rhs")}
    ode = layer.ode(features)
    assert ode.coefficients.shape == (2, 3, T["coefficients"], 3, 2, 2)
    assert ode.rhs.shape == (2, 3, T["rhs"], 3)
    assert ode.initial_values.shape == (2, 3, 2, 2, 1)
    assert ode.step_sizes.shape == (2, 3, 1 if "step_sizes" in time_invariant else 5)
    assert layer(features).shape == (2, 3, 6, 2, 2)


def test_every_parameter_learns(features: Tensor) -> None:
    layer = net(coefficients="sample", rhs="shared", initial_values="sample", step_sizes="shared")
    layer(features).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.abs().min() > 0, name


def test_starts_near_free_motion(features: Tensor) -> None:
    ode = net(n_variables=2).ode(features)
    expected = torch.zeros(2, 2, 3, dtype=torch.float64)
    expected[:, :, 2] = torch.eye(2)
    assert (ode.coefficients - expected).abs().max() < 1
    assert (ode.coefficients - expected).abs().mean() < 0.2
    assert torch.all(ode.step_sizes == 0.1) or torch.allclose(ode.step_sizes, torch.tensor(0.1, dtype=torch.float64))


def test_given_and_constant_parameters(features: Tensor) -> None:
    rhs = torch.randn(3, 6, 1, dtype=torch.float64)
    layer = net(rhs="given", step_sizes=torch.full((1,), 0.2, dtype=torch.float64))
    ode = layer.ode(features, rhs=rhs)
    assert ode.rhs is rhs
    torch.testing.assert_close(layer(features, rhs=rhs), st.solve_ode(*ode, n_steps=6))
    with pytest.raises(smnn.ArgumentError, match=r"expected the parameters \['rhs'\].*got \[\]"):
        layer(features)
    with pytest.raises(smnn.ArgumentError, match="got \\['rhs', 'step_sizes'\\]"):
        layer(features, rhs=rhs, step_sizes=rhs)


def test_fixed_coefficients_stay(features: Tensor) -> None:
    fixed = torch.tensor([[[NAN, 0.5, NAN]], [[0.0, NAN, NAN]]])  # (Q, 1, K): the same for both variables
    layer = net(n_variables=2, fixed_coefficients=fixed, normalized=True, time_invariant=())
    c = layer.ode(features).coefficients
    assert torch.all(c[..., 0, :, 1] == 0.5)
    assert torch.all(c[..., 1, :, 0] == 0.0)
    assert torch.all(c[..., 2] == torch.eye(2))
    learned = torch.stack([c[..., 0, :, 0], c[..., 1, :, 1]])
    assert learned.std(dim=(1, 2)).min() > 0


def test_steps_stay_within_their_bounds(features: Tensor) -> None:
    layer = net(step_sizes="sample", step_size=0.1, step_bounds=(0.05, 0.3))
    far = 1e3 * features
    assert layer.ode(far).step_sizes.min() >= 0.05
    assert layer.ode(far).step_sizes.max() <= 0.3
    assert torch.isfinite(layer(far)).all()


def test_weights_follow_the_layer(features: Tensor) -> None:
    mask = torch.ones(6, 1, dtype=torch.float64)
    mask[2] = 0
    layer = net(weights=st.Weights(equation=mask, smoothness=nn.Parameter(torch.tensor(2.0, dtype=torch.float64))))
    torch.testing.assert_close(layer(features), st.solve_ode(*layer.ode(features), n_steps=6, weights=layer.weights))
    assert "weight_smoothness" in dict(layer.named_parameters())
    assert layer.float().weights.equation.dtype == torch.float32
    assert layer(features.float()).dtype == torch.float32


def test_weights_of_a_call(features: Tensor) -> None:
    """Masks of a batch, in place of the weights of the layer."""
    layer = net(weights=smnn.Weights(initial=2.0))
    mask = torch.rand(2, 3, 1, 1, 1, dtype=torch.float64)
    given = smnn.Weights(initial=mask)
    expected = st.solve_ode(*layer.ode(features), n_steps=6, weights=given)
    torch.testing.assert_close(layer(features, weights=given), expected)
    assert not torch.equal(layer(features), expected)


def test_state_dict_round_trip(features: Tensor) -> None:
    options: dict[str, Any] = {"fixed_coefficients": torch.tensor([NAN, 0.3, NAN]), "rhs": "shared"}
    layer, other = net(**options), net(**options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1)
    assert not torch.equal(layer(features), other(features))
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(features), layer(features), rtol=0, atol=0)


def test_extra_repr_says_what_is_learned() -> None:
    text = repr(net(n_variables=2, rhs="given", normalized=True))
    for part in ("T=6, V=2, R=2, Q=2", "coefficients='sample' (time-invariant)", "rhs='given'", "4 coefficients fixed"):
        assert part in text
    assert "step_sizes='given'," in repr(net(step_sizes="given"))  # of whatever shape


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rhs": "learned"}, smnn.ArgumentError, "rhs must be one of 'sample', 'shared', 'given' or a tensor"),
        ({"time_invariant": ("initial_values",)}, smnn.ArgumentError, "time_invariant must hold names of"),
        ({"step_bounds": (-0.1, 0.3)}, smnn.ArgumentError, "step_bounds must be two numbers of one sign"),
        ({"step_bounds": (0.2, 0.3)}, smnn.ArgumentError, "step_bounds must be two numbers of one sign"),
        ({"fixed_coefficients": torch.zeros(7)}, smnn.ShapeError, r"fixed_coefficients must have shape \(1, 1, 3\)"),
        (
            {"coefficients": torch.zeros(1, 3)},
            smnn.ShapeError,
            r"the constant coefficients must have shape \(\.\.\., 1, 1, 1, 3\); got \(1, 3\)",
        ),
        (
            {"rhs": torch.zeros(8, 2)},
            smnn.ShapeError,
            r"the constant rhs must have shape \(\.\.\., \d+, 1\); got \(8, 2\)",
        ),
        ({"time_invariant": "rhs"}, smnn.ArgumentError, r"must be a collection of names, such as \['rhs'\]"),
        ({"weights": 0.5}, TypeError, r"weights must be Weights\(.*got float"),
        ({"normalized": True, "n_equations": 2}, smnn.ArgumentError, "normalized needs as many equations"),
        (
            {"normalized": True, "fixed_coefficients": torch.tensor([NAN, 1.0, 0.0])},
            smnn.ArgumentError,
            "where the highest order is a spare one, leave normalized out",
        ),
        ({"normalized": True, "coefficients": "given"}, smnn.ArgumentError, "are for coefficients that are"),
        ({"n_features": 0}, smnn.ArgumentError, "learned per sample: give n_features"),
        ({"n_steps": 1}, smnn.ArgumentError, "n_steps must be an integer from 2 on; got 1"),
        ({"n_steps": 6.0}, TypeError, "n_steps must be an integer, got float"),
        ({"n_equations": 0}, smnn.ArgumentError, "n_equations must be an integer from 1 on"),
    ],
)
def test_errors(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        st.MechanisticODE(**{"n_features": 5, "n_steps": 6, **options})


def test_features_of_another_length(features: Tensor) -> None:
    with pytest.raises(smnn.ShapeError, match=r"features must have shape \(\.\.\., 5\); got \(2, 3, 4\)"):
        net()(features[..., :4])


def test_trains_under_compile_as_in_eager_mode(features: Tensor) -> None:
    losses = []
    for compiled in (False, True):
        layer = net(normalized=True, step_sizes="sample")
        optimizer = torch.optim.Adam(layer.parameters(), 1e-2)
        call = torch.compile(layer, backend="aot_eager", fullgraph=True) if compiled else layer
        for _ in range(3):
            optimizer.zero_grad()
            loss = (call(features)[..., 0] - 1).square().mean()
            loss.backward()
            optimizer.step()
        losses.append(loss.detach())
    torch.testing.assert_close(losses[1], losses[0])


def _gradients(layer: nn.Module, features: Tensor) -> list[Tensor]:
    layer(features).square().mean().backward()
    return [p.grad.clone() for p in layer.parameters()]


def _data_parallel(rank: int, rendezvous: str, result: str) -> None:
    """One of two processes: its half of the batch, gradients averaged by DistributedDataParallel."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    features = torch.linspace(-1, 1, 20, dtype=torch.float64).reshape(4, 5)
    layer = nn.parallel.DistributedDataParallel(net(rhs="shared"))
    gradients = _gradients(layer, features[2 * rank : 2 * rank + 2])
    if rank == 0:
        torch.save(gradients, result)
    torch.distributed.barrier()
    # without destructors: that of the group may wait, with the interpreter's lock, for a thread that waits for the lock
    os._exit(0)


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch is built without torch.distributed")
def test_two_processes_are_one(tmp_path: Path) -> None:
    result = tmp_path / "gradients.pt"
    torch.multiprocessing.spawn(_data_parallel, (str(tmp_path / "rendezvous"), str(result)), nprocs=2)
    features = torch.linspace(-1, 1, 20, dtype=torch.float64).reshape(4, 5)
    torch.testing.assert_close(torch.load(result), _gradients(net(rhs="shared"), features))


def published_call(notebook: str) -> tuple[list[Tensor], dict[str, Any], tuple[int, ...]]:
    """(coefficients, rhs_equation, init_vars, steps), options and the shape of the result, as the notebook of that name
    in the published code calls `ode_forward`; "sst" is the call in the layer of the Mechanistic Identifier, which
    forecasts sea surface temperatures (Yao et al., 2024)."""
    g = torch.Generator().manual_seed(3)

    def some(*shape: int, low: float = 0.5) -> Tensor:
        return (low + torch.rand(shape, generator=g, dtype=torch.float64)).requires_grad_()

    if notebook == "kdv":
        inputs = some(2, 8, 10, 1, 1, 5), some(2, 8, 10, 1), some(2, 8, 1, 1, 4), some(2, 8, 9)
        return list(inputs), {"is_step_dim_first": False}, (2, 8, 10, 1, 5)
    if notebook == "lorenz":
        c = torch.zeros(1, 3, 1, 1, 1, 3, dtype=torch.float64)
        c[..., 1] = 1
        var = some(4, 12, 3)
        inputs = c[None, :, :, 0], some(4, 12, 3).transpose(0, 1)[..., None], var[None, :, 0, :, None, None]
        steps = torch.full((1, 1, 1), 0.01, dtype=torch.float64)
        options = {"n_steps": 12, "is_step_dim_first": True, "frozen_lhs_cache_version": 1}
        return [*inputs, steps], options, (12, 4, 3, 1, 3)
    if notebook == "sine":
        initial = torch.empty(1, 1, 0, 1, 0, dtype=torch.float64)
        inputs = some(1, 1, 20, 1, 1, 3), torch.ones(1, 1, 20, 1, dtype=torch.float64), initial, some(1, 1, 19, low=0.1)
        return list(inputs), {"is_step_dim_first": False}, (1, 1, 20, 1, 3)
    if notebook == "sst":
        c, b = some(4, 1, 1, 30, 1, 3).transpose(-4, -3), some(4, 1, 1, 30).transpose(-2, -1)
        return [c, b, some(4, 1, 10, 1, 1), some(4, 1, 29, 1, low=0.1).mean(dim=-1)], {}, (4, 1, 30, 1, 3)
    c = torch.tensor([[[[1.0, 2.0, 0.0], [0.5, 0.0, 0.0]], [[0.0, 0.1, 0.0], [-1.0, 1.0, 0.0]]]], dtype=torch.float64)
    inputs = c, torch.tensor([[1.0, 0.5]]).double(), torch.tensor([0.3, 2.0]).double()[None, ..., None]
    steps = torch.tensor([1e-2], dtype=torch.float64)
    return [*inputs, steps], {"n_steps": 30, "is_step_dim_first": True}, (30, 2, 3)


class TestOdeForward:
    """Names, defaults and semantics of the published function."""

    @pytest.mark.parametrize("first", [False, True])
    def test_agrees_with_the_published_algorithm(self, make: Any, first: bool) -> None:
        c, b, u, s = make((3,), T=6, V=2, grad=True)
        expected = smnn_cholesky(c, b, u, s, weights=st.Weights(2.0, 3.0, 0.5))
        arguments = [x.movedim(-rank, 0) if first else x for x, rank in ((c, 4), (b, 2), (u, 3), (s, 1))]
        y = st.ode_forward(
            *arguments, is_step_dim_first=first, weight_equation=2.0, weight_init_var=3.0, weight_smooth=0.5
        )
        y = y.movedim(0, -3) if first else y
        torch.testing.assert_close(y, expected)
        g = torch.randn_like(y)
        for actual, reference in zip(
            torch.autograd.grad(y, (c, b, u, s), g), torch.autograd.grad(expected, (c, b, u, s), g), strict=True
        ):
            torch.testing.assert_close(actual, reference)

    def test_axes_of_length_one(self, make: Any) -> None:
        c, b, u, s = make(T=6)
        y = st.ode_forward(c[:1], b[:1], u, s[:1], n_steps=6, n_init_var_steps=2)
        twice = torch.cat([u, u])
        torch.testing.assert_close(y, st.solve_ode(c[:1], b[:1], twice, s[:1], n_steps=6, scheme=st.TAYLOR))
        assert st.ode_forward(c[:1], b[:1], u, s[:1]).shape == (2, 1, 3)

    def test_frozen_left_hand_side(self, make: Any) -> None:
        c, b, u, s = make(T=6)
        try:
            first = st.ode_forward(c, b, u, s, frozen_lhs_cache_version=7)
            b.requires_grad_()
            again = st.ode_forward(c, b, u, s, frozen_lhs_cache_version=7)
            torch.testing.assert_close(again, first)
            torch.testing.assert_close(
                torch.autograd.grad(again.sum(), b),
                torch.autograd.grad(st.solve_ode(c, b, u, s, scheme=st.TAYLOR).sum(), b),
            )
            with pytest.raises(smnn.ArgumentError, match="coefficients requires a gradient"):
                st.ode_forward(c.requires_grad_(), b, u, s, frozen_lhs_cache_version=8)
            with pytest.raises(smnn.ArgumentError, match="coefficients requires a gradient"):
                st.ode_forward(c, b, u, s, frozen_lhs_cache_version=7)  # known already
            c = c.detach()[:1]
            by_rhs = st.ode_forward(c, b, u, s[:1], frozen_lhs_cache_version=9)  # T is that of rhs alone
            torch.testing.assert_close(by_rhs, st.ode_forward(c, b, u, s[:1]))
        finally:
            st.ode_forward.clear_frozen()

    @pytest.mark.parametrize("change", ["coefficients", "steps", "weight", "in place"])
    def test_a_frozen_left_hand_side_is_never_stale(self, make: Any, change: str) -> None:
        c, b, u, s = make(T=6)
        weight = 1.0
        try:
            st.ode_forward(c, b, u, s, frozen_lhs_cache_version=7)
            if change == "in place":
                c *= 2
            c, s = 2 * c if change == "coefficients" else c, 2 * s if change == "steps" else s
            weight = 3.0 if change == "weight" else weight
            again = st.ode_forward(c, b, u, s, weight_equation=weight, frozen_lhs_cache_version=7)
            torch.testing.assert_close(again, st.ode_forward(c, b, u, s, weight_equation=weight))
        finally:
            st.ode_forward.clear_frozen()

    def test_results_are_contiguous(self, make: Any) -> None:
        arguments = [x.movedim(-rank, 0) for x, rank in zip(make((3,), T=6), (4, 2, 3, 1), strict=True)]
        assert st.ode_forward(*arguments, is_step_dim_first=True).view(-1).shape == (6 * 3 * 3,)

    def test_dtypes_are_promoted(self, make: Any) -> None:
        c, b, u, s = make(T=6)
        y = st.ode_forward(c, b, u, s.float())
        assert y.dtype == torch.float64
        torch.testing.assert_close(y, st.ode_forward(c, b, u, s.float().double()))

    def test_a_negative_cache_number_keeps_nothing(self, make: Any) -> None:
        c, b, u, s = make(T=6)
        y, twice = (st.ode_forward(x, b, u, s, frozen_lhs_cache_version=-1) for x in (c, 2 * c))
        torch.testing.assert_close(twice, st.ode_forward(2 * c, b, u, s))
        torch.testing.assert_close(y, st.ode_forward(c, b, u, s))

    @pytest.mark.parametrize("first", [False, True])
    def test_errors_name_the_arguments_of_the_caller(self, make: Any, first: bool) -> None:
        names = "coefficients", "rhs_equation", "init_vars", "steps"
        ranks = 4, 2, 3, 1

        def call(**changes: Any) -> None:
            given = dict(zip(names, make((3,), T=6), strict=True))
            if first:
                given = {k: x.movedim(-rank, 0) for (k, x), rank in zip(given.items(), ranks, strict=True)}
            st.ode_forward(**given | changes, is_step_dim_first=first)

        wrong = torch.ones((6, 3, 2) if first else (3, 6, 2), dtype=torch.float64)
        expected = r"\(T, \.\.\., 1\)" if first else r"\(\.\.\., T, 1\)"
        with pytest.raises(smnn.ShapeError, match=rf"rhs_equation has shape \(\d, \d, 2\); expected {expected}"):
            call(rhs_equation=wrong)
        with pytest.raises(smnn.ShapeError, match=r"init_vars must have at least 3 axes"):
            call(init_vars=torch.ones(3))
        with pytest.raises(smnn.DTypeError, match=r"steps has dtype torch\.int64"):
            call(steps=torch.ones(5, dtype=torch.int64))
        with pytest.raises(smnn.NamespaceError, match=r"steps must be a torch\.Tensor, got float"):
            call(steps=0.1)
        with pytest.raises(smnn.ShapeError, match=r"weight_equation of shape .* has more axes than the rows"):
            call(weight_equation=torch.ones(6, 1, 1, 1))

    @pytest.mark.parametrize("first", [False, True])
    def test_central_smoothness_in_every_layout(self, make: Any, first: bool) -> None:
        c, b, u, s = make((3,), T=6, V=2)
        expected = smnn_central(c, b, u, s, weights=st.Weights(2.0, 3.0, 0.5))
        arguments = [x.movedim(-rank, 0) if first else x for x, rank in ((c, 4), (b, 2), (u, 3), (s, 1))]
        options = {"weight_equation": 2.0, "weight_init_var": 3.0, "weight_smooth": 0.5, "is_step_dim_first": first}
        y = st.ode_forward(*arguments, enable_central_smoothness=True, **options)
        torch.testing.assert_close(y.movedim(0, -3) if first else y, expected, rtol=0, atol=0)
        assert y.is_contiguous()

    def test_central_smoothness_in_float32_is_computed_in_float64(self, make: Any) -> None:
        inputs = [x.detach().requires_grad_() for x in make((3,), T=6, dtype=torch.float32)]
        y = st.ode_forward(*inputs, enable_central_smoothness=True)
        assert y.dtype == torch.float32
        wide = [x.detach().double().requires_grad_() for x in inputs]
        expected = smnn_central(*wide)
        torch.testing.assert_close(y, expected.float(), rtol=0, atol=0)
        g = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
        gradients = torch.autograd.grad(y, inputs, g), torch.autograd.grad(expected, wide, g.double())
        for found, wider in zip(*gradients, strict=True):
            torch.testing.assert_close(found, wider.float(), rtol=0, atol=0)

    def test_central_smoothness_with_a_frozen_left_hand_side(self, make: Any) -> None:
        c, b, u, s = make(T=6)
        for coefficients in (c, 2 * c):
            y = st.ode_forward(coefficients, b, u, s, enable_central_smoothness=True, frozen_lhs_cache_version=3)
            torch.testing.assert_close(y, smnn_central(coefficients, b, u, s), rtol=0, atol=0)
        with pytest.raises(smnn.ArgumentError, match="coefficients requires a gradient"):
            st.ode_forward(c.requires_grad_(), b, u, s, enable_central_smoothness=True, frozen_lhs_cache_version=3)

    @pytest.mark.parametrize("central", [False, True])
    @pytest.mark.parametrize("notebook", ["kdv", "lorenz", "sine", "sst", "standalone"])
    def test_the_calls_of_the_published_notebooks(self, notebook: str, central: bool) -> None:
        """Their shapes, layouts and options, with fewer points."""
        arguments, options, shape = published_call(notebook)
        try:
            y = st.ode_forward(*arguments, **options, enable_central_smoothness=central)
        finally:
            st.ode_forward.clear_frozen()
        assert y.shape == shape
        first = options.get("is_step_dim_first", False)
        c, b, u, s = (x.movedim(0, -k) if first else x for x, k in zip(arguments, (4, 2, 3, 1), strict=True))
        solver = smnn_central if central else smnn_cholesky
        expected = solver(c, b, u, s, n_steps=options.get("n_steps"))
        torch.testing.assert_close(y.movedim(0, -3) if first else y, expected, rtol=1e-8, atol=1e-8)
        if y.requires_grad:
            y[..., 0, 0].square().sum().backward()

    def test_arguments_that_are_no_tensors_or_have_too_few_axes(self, make: Any) -> None:
        c, b, u, s = make((), T=6)
        with pytest.raises(smnn.NamespaceError, match=r"rhs_equation must be a torch\.Tensor, got list"):
            st.ode_forward(c, b.tolist(), u, s)
        with pytest.raises(smnn.ShapeError, match=r"init_vars must have at least 3 axes; got shape \(2,\)"):
            st.ode_forward(c, b, u[0, 0], s, is_step_dim_first=True)
        c, b, u, s = make(T=6)
        with pytest.raises(smnn.ShapeError, match=r"init_vars has shape \(2, 1, 2\).*n_init_var_steps T_init = 3"):
            st.ode_forward(c, b, torch.cat([u, u]), s, n_init_var_steps=3)


def test_functions_of_the_parameters(features: Tensor) -> None:
    """`torch.func.functional_call` puts plain tensors in the place of parameters."""
    layer = net()
    parameters = {name: x.detach() for name, x in layer.named_parameters()}

    def f(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(layer, parameters, (features,)).square().sum()

    found = torch.func.grad(f)(parameters)
    layer(features).square().sum().backward()
    for name, x in layer.named_parameters():
        torch.testing.assert_close(found[name], x.grad)


def test_made_on_the_meta_device(features: Tensor) -> None:
    options = {"order": 2, "normalized": True, "fixed_coefficients": torch.tensor([NAN, 0.25, NAN])}
    layer = net(**options)
    empty = net(**options, device="meta").to_empty(device="cpu")
    empty.load_state_dict(layer.state_dict())
    torch.testing.assert_close(empty(features), layer(features))
    again = net(**options, device="meta").to_empty(device="cpu")
    again.reset_parameters()
    coefficients = again.ode(features).coefficients
    assert (coefficients[..., 1:] == torch.tensor([0.25, 1.0], dtype=torch.float64)).all()


def test_fixed_coefficients_keep_their_digits_under_autocast(features: Tensor) -> None:
    layer = st.MechanisticODE(5, n_steps=6, fixed_coefficients=torch.tensor([NAN, 0.3, 1.0]))
    with torch.autocast("cpu", torch.bfloat16):
        coefficients = layer.ode(features.float()).coefficients
    assert (coefficients[..., 1] == torch.tensor(0.3)).all()


def test_fixed_coefficients_must_be_finite() -> None:
    with pytest.raises(smnn.ArgumentError, match="fixed_coefficients must be finite, or NaN where they are learned"):
        net(fixed_coefficients=torch.tensor([NAN, torch.inf, 1.0]))
