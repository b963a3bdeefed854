"""`solve` with many variables: derivatives of Jacobians by groups of equations, gradients by sweeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

import smnn_torch
from smnn_core.extend import Groups
from smnn_torch import _trajectory


def wave(V):
    return torch.sin(torch.pi * torch.arange(1, V + 1, dtype=torch.float64) / (V + 1))


def end(k, start, coupled=0.0, tolerance=1e-8):
    """Of the heat equation by lines, u_t = k u_xx between zeros, in the middle at t = 0.1."""
    h = 1 / (len(start) + 1)

    def residual(t, y):
        u = torch.nn.functional.pad(y[..., 0], (1, 1))
        bent = u[..., 2:] - 2 * u[..., 1:-1] + u[..., :-2]
        return y[..., 1] - k * bent / h**2 + coupled * y[..., :1, 0] * y[..., 0]

    s = smnn_torch.solve(residual, [0, 0.1], start[:, None], tolerance=tolerance, order=1)
    assert s.converged
    return s([0.1])[0, len(start) // 2, 0]


def exact(k, V):
    λ = 4 * (V + 1) ** 2 * np.sin(np.pi / 2 / (V + 1)) ** 2
    value = np.exp(-0.1 * k * λ) * wave(V)[V // 2].item()
    return value, -0.1 * λ * value, (0.1 * λ) ** 2 * value


@pytest.mark.parametrize("V", [13, 100])
def test_derivatives_by_the_diffusion_constant(V):
    k, start = torch.tensor(0.7, dtype=torch.float64, requires_grad=True), wave(V)
    value = end(k, start)
    (first,) = torch.autograd.grad(value, k, create_graph=True)
    (second,) = torch.autograd.grad(first, k)
    assert np.allclose([x.item() for x in (value, first, second)], exact(0.7, V), rtol=1e-6)


def test_gradient_of_a_nonlinear_equation_is_that_of_differences():
    k, start = torch.tensor(0.7, dtype=torch.float64), wave(20)
    start.requires_grad_()
    gradient = torch.autograd.grad(end(k, start, 3.0), start)[0]
    direction = torch.linspace(-1, 1, 20, dtype=torch.float64)
    with torch.no_grad():
        up, down = (end(k, start + a * direction, 3.0, 1e-11) for a in (1e-4, -1e-4))
    assert torch.allclose(gradient @ direction, (up - down) / 2e-4, rtol=1e-6)


def test_forward_mode_and_batched_gradients():
    V, start = 20, wave(20)
    with forward_ad.dual_level():
        k = forward_ad.make_dual(torch.tensor(0.7, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64))
        assert np.isclose(forward_ad.unpack_dual(end(k, start)).tangent.item(), 2 * exact(0.7, V)[1], rtol=1e-6)
    k = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    value = end(k, start)
    both = torch.autograd.grad(value, k, torch.tensor([1.0, 3.0], dtype=torch.float64), is_grads_batched=True)[0]
    assert np.allclose(both, exact(0.7, V)[1] * np.array([1.0, 3.0]), rtol=1e-6)


def test_members_of_a_batch():
    k = torch.tensor([0.5, 1.0], dtype=torch.float64, requires_grad=True)
    V, start = 20, wave(20)
    values = smnn_torch.solve(
        lambda t, y: y[..., 1] + k[:, None, None] * torch.arange(V) * y[..., 0],
        [0, 0.1],
        start[:, None].expand(2, V, 1),
        order=1,
    )([0.1])[:, 0, 5, 0]
    values.sum().backward()
    assert torch.allclose(k.grad, -0.5 * torch.exp(-0.5 * k.detach()) * start[5], rtol=1e-5)


def test_entries_that_come_later_are_seen():
    """A coupling that begins where y is smaller than it was where entries were looked for."""
    V, start = 20, torch.ones(20, 1, dtype=torch.float64)

    def residual(t, y):
        u = y[..., 0]
        mean = u.mean(dim=-1, keepdim=True)
        return y[..., 1] + u + 5 * torch.where(u < 0.29, 1.0, 0.0) * (mean - 0.29) ** 3

    s = smnn_torch.solve(residual, [0, 2.0], start, tolerance=1e-6, order=1)
    reference = smnn_torch.solve(lambda t, y: residual(t, y), [0, 2.0], start[:1], tolerance=1e-6, order=1)
    assert s.converged
    assert torch.allclose(s([2.0])[0, :, 0], reference([2.0])[0, 0, 0].expand(V), rtol=1e-5)


def test_jacobian_by_groups_is_that_by_equations(monkeypatch):
    V, y = 30, torch.rand(7, 30, 2, dtype=torch.float64)

    def residual(t, y):
        u = torch.nn.functional.pad(y[..., 0], (1, 1))
        return y[..., 1] * (1 + y[..., 0] ** 2) - torch.sin(u[..., 2:] * u[..., :-2])

    equations = _trajectory._Equations(residual, 0, y, _trajectory.Mapped())
    arguments = np.zeros(7), y.numpy(), np.zeros((1, 0))
    f, J, _ = equations.linearize(*arguments)
    assert equations.groups.count < 6
    again, sparse, _ = equations.linearize(*arguments)
    assert np.array_equal(f, again)
    assert np.allclose(sparse.dense(V, V, 2), J, atol=1e-14)


def test_groups_see_other_entries():
    rng, i = np.random.default_rng(0), np.arange(20)
    J = np.zeros((3, 20, 20, 1))
    J[:, i, i, 0] = rng.standard_normal((3, 20))
    groups = Groups.of(J)

    def sums():
        return np.einsum("gq,nqvr->gnvr", groups.weights, J)

    assert np.allclose(groups.jacobian(sums(), 1e-16).dense(20, 20, 1), J)
    J[1, 3, 7, 0] = 0.1
    assert groups.jacobian(sums(), 1e-16) is None
    assert Groups.of(rng.standard_normal((20, 20, 1))) is None
