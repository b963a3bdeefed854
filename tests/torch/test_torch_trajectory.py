"""`smnn_torch.solve`: the same solutions as the core's, with first and second derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import smnn_core as smnn
import smnn_torch

nan = float("nan")
f64 = torch.float64


def logistic(q):
    """y(1) of y' = -k y^2 - a y, y(0) = u, for q = (k, a, u)."""

    def residual(t, y):
        return y[..., 1] + q[0] * y[..., 0] ** 2 + q[1] * y[..., 0]

    return smnn_torch.solve(residual, [0.0, 1.0], q[2].reshape(1, 1), tolerance=1e-10)([1.0])[0, 0, 0]


def exact_logistic(q):
    k, a, u = q
    e = torch.exp(-a)
    return a * u * e / (a + k * u * (1 - e))


Q = torch.tensor([1.0, 0.7, 1.3], dtype=f64)


@pytest.mark.parametrize("transform", ["grad", "jacfwd", "hessian"])
def test_derivatives_by_transforms(transform):
    ours, exact = (getattr(torch.func, transform)(f)(Q) for f in (logistic, exact_logistic))
    assert torch.allclose(ours, exact, atol=1e-9)


MEMBERS = torch.tensor([[1.0, 0.7, 1.3], [2.0, 0.5, 1.0], [0.3, 1.0, 2.0]], dtype=f64)


@pytest.mark.parametrize(
    "transform",
    [
        torch.func.vmap,
        lambda f: torch.func.vmap(torch.func.grad(f)),
        lambda f: torch.func.vmap(torch.func.hessian(f)),
        lambda f: torch.func.hessian(lambda q: torch.func.vmap(f)(q).square().sum()),
        lambda f: torch.func.jacfwd(torch.func.vmap(f)),
        lambda f: lambda q: torch.func.vmap(torch.func.vmap(f))(torch.stack([q, 1.1 * q])),
    ],
    ids=["vmap", "of grad", "of hessian", "in hessian", "in jacfwd", "of vmap"],
)
def test_vmap_with_other_transforms(transform):
    ours, exact = (transform(f)(MEMBERS) for f in (logistic, exact_logistic))
    assert torch.allclose(ours, exact, atol=1e-9)


def test_members_of_vmap_have_meshes_of_their_own_beside_batch_axes():
    """eps y'' = y for three eps by vmap and three values at 0 as a batch: these axes are kept apart."""
    values = torch.tensor([1.0, 2.0, 3.0], dtype=f64)

    def solution(eps, scale):
        start = torch.stack([values, torch.full((3,), nan, dtype=f64)], -1)[:, None]
        end = torch.tensor([[0.0, nan]], dtype=f64)
        s = smnn_torch.solve(lambda t, y: scale * (eps * y[..., 2] - y[..., 0]), [0, 1], {0: start, 1: end})
        assert s.t.shape[0] == 3
        return s([0.05, 0.5])[..., 0, 0], s.t, s.converged, s.largest_error

    eps = torch.tensor([1e-1, 1e-3, 1e-5], dtype=f64)
    y, t, converged, _ = torch.func.vmap(solution, (0, None))(eps, torch.tensor(2.0, dtype=f64))
    a, x = eps[:, None, None] ** -0.5, torch.tensor([0.05, 0.5], dtype=f64)
    exact = values[:, None] * torch.exp(-a * x) * (1 - torch.exp(-2 * a * (1 - x))) / (1 - torch.exp(-2 * a))
    assert torch.allclose(y, exact, atol=3e-6)
    assert converged.shape == (3, 3)
    assert converged.all()
    assert (t.diff().amin(-1)[:, 0].diff() < 0).all()


def test_constants_conditions_and_guesses_by_vmap():
    """y'' + λ L^2 y = 0, y(0) = y(1) = 0, y'(0) = c: λ = (n π / L)^2, n by the guess."""

    def eigenvalue(L, c, n):
        s = smnn_torch.solve(
            lambda t, y, p: y[..., 2] + p[..., 0:1] * L**2 * y[..., 0],
            [0.0, 1.0],
            lambda y: torch.stack([y[..., 0, 0, 0], y[..., 1, 0, 0], y[..., 0, 0, 1] - c], -1),
            order=[2],
            constants=(9.0 * (n / L) ** 2)[None],
            guess=lambda t: torch.sin(n * torch.pi * t)[:, None] * c / 3,
            mesh=torch.linspace(0, 1, 17, dtype=f64),
        )
        return s.constants[0]

    L, c, n = (torch.tensor(x, dtype=f64) for x in ([1.0, 2.0, 1.5], [1.0, 0.5, 1.0], [1.0, 1.0, 2.0]))
    slopes, values = torch.func.vmap(torch.func.grad_and_value(eigenvalue))(L, c, n)
    exact = (n * torch.pi / L) ** 2
    assert torch.allclose(values, exact, rtol=1e-7)
    assert torch.allclose(slopes, -2 * exact / L, rtol=1e-6)


def test_a_member_of_vmap_that_fails():
    """y' = k y^2, y(0) = 1, ends at t = 1 / k."""

    def end(k):
        s = smnn_torch.solve(
            lambda t, y: y[..., 1] - k * y[..., 0] ** 2, [0, 1], torch.ones(1, 1, dtype=f64), max_intervals=300
        )
        return s(1.0)[0, 0], s.converged

    k = torch.tensor([0.5, 2.0], dtype=f64)
    with pytest.warns(smnn.ConvergenceWarning, match="1 of 2"):
        y, converged = torch.func.vmap(end)(k)
    assert converged.tolist() == [True, False]
    assert abs(y[0] - 2) < 1e-5
    assert y[1].isnan()


def test_second_derivatives_in_reverse_mode():
    q = Q.clone().requires_grad_()
    (g,) = torch.autograd.grad(logistic(q), q, create_graph=True)
    H = torch.stack([torch.autograd.grad(g[i], q, retain_graph=True)[0] for i in range(3)])
    assert torch.allclose(H, torch.func.hessian(exact_logistic)(Q), atol=1e-9)


def boundary(q):
    """eps y'' + y y' - y = 0 with y(0) = a, y(1) = b at a time, for q = (eps, a, b, times 0, 1, and where)."""

    def residual(t, y):
        return q[0] * y[..., 2] + y[..., 0] * y[..., 1] - y[..., 0]

    missing = torch.full((1,), nan, dtype=f64)
    conditions = {0.0: torch.stack([q[1:2], missing], -1), 1.0: torch.stack([q[2:3], missing], -1)}
    return smnn_torch.solve(residual, q[3:5], conditions, tolerance=1e-9)(q[5:6])[0, 0, :2].sum()


def test_derivatives_by_conditions_times_and_place():
    q = torch.tensor([0.2, 1.0, 1.5, 0.0, 1.0, 0.4], dtype=f64)
    gradient = torch.func.grad(boundary)(q)
    for i in range(6):
        h = torch.zeros_like(q)
        h[i] = 1e-4
        if i in (3, 4):  # conditions stand at the times, which are told by their values
            continue
        difference = (boundary(q + h) - boundary(q - h)) / 2e-4
        assert abs(difference - gradient[i]) < 1e-5 * (1 + abs(difference))


def test_the_derivative_by_an_end():
    """y' = y, y(0) = 1: what y(T/2) changes by when the end T moves on a mesh that moves along is nothing."""
    T = torch.tensor(2.0, dtype=f64, requires_grad=True)
    times = torch.stack([torch.zeros_like(T), T])
    s = smnn_torch.solve(lambda t, y: y[..., 1] - y[..., 0], times, torch.ones(1, 1, dtype=f64), tolerance=1e-10)
    (at_end,) = torch.autograd.grad(s.y[-1, 0, 0], T, retain_graph=True)
    (inside,) = torch.autograd.grad(s([1.0])[0, 0, 0], T)
    assert abs(at_end - np.exp(2)) < 1e-8
    assert abs(inside) < 1e-8


def test_constants_and_conditions_as_functions():
    """A limit cycle: its period and the derivative of that by mu."""

    def period(mu):
        def residual(t, y, c):
            x, v = y[..., 0, 0], y[..., 1, 0]
            T = c[..., 0]
            return torch.stack([y[..., 0, 1] - T * v, y[..., 1, 1] - T * (mu * (1 - x**2) * v - x)], -1)

        s = smnn_torch.solve(
            residual,
            [0.0, 1.0],
            lambda y: torch.cat([y[..., -1, :, 0] - y[..., 0, :, 0], y[..., 0, 1, :]], -1),
            order=[1, 1],
            constants=torch.tensor([7.5], dtype=f64),
            guess=lambda t: torch.stack([2 * torch.cos(6.28 * t), -2 * torch.sin(6.28 * t)], -1),
            tolerance=1e-9,
        )
        return s.constants[0]

    mu = torch.tensor(2.0, dtype=f64)
    assert abs(period(mu) - 7.62987448) < 1e-8
    difference = (period(mu + 1e-3) - period(mu - 1e-3)) / 2e-3
    assert abs(torch.func.grad(period)(mu) - difference) < 1e-5


def test_networks_in_the_residual_and_a_batch():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    start = torch.tensor([[[1.0]], [[2.0]]])

    def residual(t, y):
        return y[..., 1] + net(y[..., 0])

    s = smnn_torch.solve(residual, [0, 2], start, tolerance=1e-4)
    assert s.y.dtype == torch.float32
    loss = s([2.0])[:, 0, 0, 0].sum()
    loss.backward()
    parameter = net[2].bias
    analytic = float(parameter.grad)
    with torch.no_grad():
        ends = []
        for h in (1e-2, -1e-2):
            parameter += h
            ends.append(float(smnn_torch.solve(residual, [0, 2], start, tolerance=1e-4)([2.0])[:, 0, 0, 0].sum()))
            parameter -= h
    assert abs((ends[0] - ends[1]) / 2e-2 - analytic) < 2e-2 * abs(analytic)


def test_gradcheck_of_everything_that_enters():
    """On a mesh that was given, so that differences are those of one function."""
    net = torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1)).to(f64)
    names = [name for name, _ in net.named_parameters()]
    mesh = torch.linspace(0, 1, 5, dtype=f64)

    def values(start, scale, *parameters):
        held = dict(zip(names, parameters, strict=True))

        def residual(t, y):
            push = torch.func.functional_call(net, held, y[..., 0])
            return y[..., 1] + push + scale[:, None, None] * torch.sin(t)[..., None] * y[..., 0]

        return smnn_torch.solve(residual, [0, 1], start, mesh=mesh, order=1).y

    start = torch.tensor([[[1.0]], [[0.5]]], dtype=f64)
    inputs = [x.detach().clone().requires_grad_() for x in (start, start[:, 0, 0], *net.parameters())]
    assert torch.autograd.gradcheck(values, inputs, eps=1e-5, atol=1e-7)


def test_gradients_change_no_value_and_are_asked_for_where_something_does():
    k = torch.tensor(1.0, dtype=f64)

    def at_end(k):
        return smnn_torch.solve(lambda t, y: y[..., 1] + k * y[..., 0] ** 2, [0, 1], torch.ones(1, 1, dtype=f64))(1.0)

    plain, followed = at_end(k), at_end(k.clone().requires_grad_())
    assert not plain.requires_grad
    assert followed.requires_grad
    assert torch.equal(plain, followed)


def test_a_closure_may_have_more_members_than_the_arguments():
    k = torch.tensor([1.0, 2.0], dtype=f64)
    start = torch.ones(1, 1, dtype=f64)
    s = smnn_torch.solve(lambda t, y: y[..., 1] + k[:, None, None] * y[..., 0] ** 2, [0, 1], start)
    assert torch.allclose(s(1.0)[:, 0, 0], 1 / (1 + k), atol=1e-6)


def test_a_mesh_too_coarse_for_the_tolerance_has_derivatives_all_the_same():
    def at_end(k):
        with pytest.warns(smnn.ConvergenceWarning, match="above the tolerance"):
            s = smnn_torch.solve(
                lambda t, y: y[..., 1] + k * y[..., 0] ** 2,
                [0, 1],
                torch.ones(1, 1, dtype=f64),
                mesh=torch.linspace(0, 1, 3, dtype=f64),
                points=2,
                tolerance=1e-10,
            )
        assert not s.converged
        return s.y[-1, 0, 0]

    k = torch.tensor(1.0, dtype=f64, requires_grad=True)
    (gradient,) = torch.autograd.grad(at_end(k), k)
    difference = (at_end(k.detach() + 1e-4) - at_end(k.detach() - 1e-4)) / 2e-4
    assert abs(gradient - difference) < 1e-7


def test_members_that_fail_have_no_part_in_derivatives():
    k = torch.tensor([[0.5], [2.0]], dtype=f64, requires_grad=True)
    with pytest.warns(smnn.ConvergenceWarning):
        s = smnn_torch.solve(
            lambda t, y: y[..., 1] - k[..., None] * y[..., 0] ** 2,
            [0, 1],
            torch.ones(1, 1, dtype=f64),
            order=1,
            max_intervals=300,
        )
    assert s.converged.tolist() == [True, False]
    s.y[0, -1, 0, 0].backward()
    assert torch.allclose(k.grad, torch.tensor([[4.0], [0.0]], dtype=f64), atol=1e-5)  # 1 / (1 - k)^2


def test_what_cannot_be_done_is_said():
    s = smnn_torch.solve(lambda t, y: y[..., 1] + y[..., 0], [0, 1], torch.ones(1, 1, dtype=f64))
    with pytest.raises(smnn.ShapeError, match=r"batch axes of the solution, \(\); got \(3, 2\)"):
        s(torch.rand(3, 2))
    with pytest.raises(smnn.ArgumentError, match="times must be the same for all members of vmap"):
        torch.func.vmap(boundary)(torch.stack([torch.tensor([0.2, 1.0, 1.5, 0.0, 1.0, 0.4], dtype=f64)] * 2))
    with pytest.raises(smnn.NamespaceError, match=r"torch\.Tensor"):
        smnn_torch.solve(lambda t, y: y[..., 1].numpy(), [0, 1], torch.ones(1, 1))
    with pytest.raises(smnn.DTypeError, match=r"real numbers, got dtype torch\.complex128: real and imaginary parts"):
        smnn_torch.solve(lambda t, y: y[..., 1] + 1j * y[..., 0], [0, 1], torch.ones(1, 1, dtype=f64))
    with pytest.raises(smnn.ArgumentError, match="no derivative in y"):
        smnn_torch.solve(lambda t, y: y[..., 1].detach(), [0, 1], torch.ones(1, 1))
    with torch.inference_mode(), pytest.raises(smnn.ArgumentError, match="no derivative in y"):
        smnn_torch.solve(lambda t, y: y[..., 1], [0, 1], torch.ones(1, 1))
    with pytest.raises(smnn.ArgumentError, match="tolerance must lie between 6e-06"):
        smnn_torch.solve(lambda t, y: y[..., 1], [0, 1], torch.ones(1, 1, dtype=torch.float32), tolerance=1e-7)


def test_derivatives_on_steps_that_follow_the_solution():
    """eps y'' = (1 - y^2) y' - y, eps = 1e-3, from (2, 0) across a jump: dy(2)/dy(0) = 1.25339 by differences of
    `scipy.integrate.solve_ivp(method="Radau", rtol=1e-11)`; steps differ by a factor of a thousand and more."""

    def end(a):
        s = smnn_torch.solve(
            lambda t, y: 1e-3 * y[..., 2] - (1 - y[..., 0] ** 2) * y[..., 1] + y[..., 0],
            [0.0, 2.0],
            torch.stack([a, 0 * a])[None],
            tolerance=1e-8,
        )
        steps = s.t.diff().abs()
        assert s.converged
        assert steps.max() > 100 * steps.min()
        return s([2.0])[0, 0, 0]

    a = torch.tensor(2.0, dtype=f64, requires_grad=True)
    (derivative,) = torch.autograd.grad(end(a), a)
    assert abs(float(derivative) - 1.25339) < 1e-4


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of tensors that Dynamo guards, by itself
@pytest.mark.parametrize("mesh", [None, torch.linspace(0, 1, 9, dtype=f64)], ids=["own mesh", "given mesh"])
def test_compiled_functions_run_it_outside_of_their_graphs(mesh):
    """y' = -e^k y^2, y(0) = 1, solved by 1 / (1 + e^k t)."""

    def loss(k):
        s = smnn_torch.solve(
            lambda t, y: y[..., 1] + k.exp() * y[..., 0] ** 2,
            [0.0, 1.0],
            torch.ones(1, 1, dtype=f64),
            tolerance=1e-10,
            mesh=mesh,
        )
        return (2 * s([1.0])[0, 0, 0]).sin()

    k = torch.tensor(0.3, dtype=f64, requires_grad=True)
    value = torch.compile(loss, backend="aot_eager")(k)
    (slope,) = torch.autograd.grad(value, k)
    y = 1 / (1 + k.exp())
    (exact,) = torch.autograd.grad((2 * y).sin(), k)
    assert abs(value - (2 * y).sin()) < 1e-9
    assert abs(slope - exact) < 1e-9


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of tensors that Dynamo guards, by itself
def test_residuals_may_be_compiled():
    f = torch.compile(lambda y, k: y[..., 1] + k * y[..., 0] ** 2, backend="aot_eager", dynamic=True)
    k = torch.tensor(1.0, dtype=f64, requires_grad=True)
    s = smnn_torch.solve(lambda t, y: f(y, k), [0, 1], torch.ones(1, 1, dtype=f64))
    (slope,) = torch.autograd.grad(s(1.0)[0, 0], k)
    assert abs(slope + 0.25) < 1e-5


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of tensors that Dynamo guards, by itself
def test_graphs_without_breaks_are_refused():
    k = torch.tensor(1.0, dtype=f64)
    end = torch.compile(
        lambda k: smnn_torch.solve(lambda t, y: y[..., 1] + k * y[..., 0], [0, 1], torch.ones(1, 1).double())(1.0),
        backend="eager",
        fullgraph=True,
    )
    with pytest.raises(torch._dynamo.exc.Unsupported, match="solve chooses steps by values"):
        end(k)


def test_times_may_be_none_and_batches_and_numbers_may_not() -> None:
    def decay(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return y[..., 1] + y[..., 0]

    s = smnn_torch.solve(decay, [0, 1], torch.ones(1, 1, dtype=torch.float64))
    assert s([]).shape == (0, 1, 2)
    with pytest.raises(smnn.ShapeError, match=r"conditions have an empty batch, of shape \(0,\)"):
        smnn_torch.solve(decay, [0, 1], torch.ones(0, 1, 1))
    with pytest.raises(smnn.DTypeError, match="solve takes real numbers, got complex"):
        smnn_torch.solve(decay, [0, 1], torch.ones(1, 1, dtype=torch.complex128))


def test_constants_with_an_axis_too_many_are_refused_with_their_shape() -> None:
    def residual(t: torch.Tensor, y: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return y[..., 1] - c[..., None, :1]

    with pytest.raises(smnn.ShapeError, match=r"Constants have the shape \(..., n, p\)"):
        smnn_torch.solve(residual, [0, 1], {0: [[0.0]], 1: [[2.0]]}, order=1, constants=[1.0])


def test_values_without_an_axis_of_equations_are_told_of_it() -> None:
    with pytest.raises(smnn.ShapeError, match=r"f\[..., None\]"):
        smnn_torch.solve(lambda t, y: y[..., 0, 1] + y[..., 0, 0], [0, 1], [[1.0]])


def test_conditions_with_one_axis_are_told_of_both_readings() -> None:
    with pytest.raises(smnn.ShapeError, match=r"x\[:, None\]"):
        smnn_torch.solve(lambda t, y: y[..., 1] + y[..., 0], [0, 1], [1.0])


def test_the_text_of_many_variables_of_one_order_says_it_once() -> None:
    s = smnn_torch.solve(lambda t, y: y[..., 1] + y[..., 0], [0, 1], torch.ones(40, 1))
    assert "V = 40, order 1," in repr(s)
