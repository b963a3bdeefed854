"""The posterior of tensors: derivatives of every field, under transforms."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest
import torch
from torch import Tensor

import smnn_core
import smnn_torch as smnn

FIELDS: dict[str, Callable[[smnn.Posterior], Tensor]] = {
    name: lambda p, name=name: getattr(p, name)
    for name in ("mean", "variance", "covariance", "lag_covariance", "log_determinant", "sum_of_squares", "scale")
}
FIELDS["sample"] = lambda p: p.sample(2, torch.Generator().manual_seed(0))
T, T_init, V, K = 5, 3, 2, 3


def arguments(*batch: int) -> list[Tensor]:
    """Coefficients, right-hand side, initial values, step sizes, and the three weights, all of full size."""
    draw = torch.Generator().manual_seed(1)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=draw, dtype=torch.float64)

    c = uniform(-0.2, 0.2, *batch, T, V, V, K)
    for v in range(V):
        c[..., v, v, 1] += 1.5
    u = uniform(-1, 1, *batch, T_init, V, K)
    weights = uniform(0.5, 1.5, T, V), uniform(0.5, 1.5, T_init, V, K), uniform(0.5, 1.5, T - 1)
    return [c, uniform(-1, 1, T, V), u, uniform(0.2, 0.7, T - 1), *weights]


def posterior(c: Tensor, b: Tensor, u: Tensor, s: Tensor, *weights: Tensor) -> smnn.Posterior:
    return smnn.posterior(c, b, u, s, weights=smnn.Weights(*weights))


def evidence(c: Tensor, b: Tensor, u: Tensor, s: Tensor, *weights: Tensor) -> Tensor:
    observed = (torch.arange(T_init) > 0)[:, None, None]
    return smnn.log_evidence(c, b, u, s, weights=smnn.Weights(*weights), observed=observed)


@pytest.mark.parametrize("field", FIELDS)
def test_gradients_are_those_of_finite_differences(field: str) -> None:
    given = [x.requires_grad_() for x in arguments(2)]
    assert torch.autograd.gradcheck(
        lambda *x: FIELDS[field](posterior(*x)), given, atol=1e-6, rtol=1e-5, fast_mode=True
    )


def test_the_gradient_of_the_evidence_is_that_of_finite_differences() -> None:
    given = [x.requires_grad_() for x in arguments(2)]
    assert torch.autograd.gradcheck(evidence, given, atol=1e-6, rtol=1e-5, fast_mode=True)


@pytest.mark.parametrize("field", FIELDS)
def test_values_are_those_of_the_core(field: str) -> None:
    given = arguments(2)
    found = FIELDS[field](posterior(*given))
    c, b, u, s, *w = (x.numpy() for x in given)
    core = smnn_core.posterior(c, b, u, s, weights=smnn_core.Weights(*w))
    if field == "sample":
        assert tuple(found.shape) == core.sample(2).shape
    else:
        np.testing.assert_allclose(found, getattr(core, field), rtol=1e-10, atol=1e-12)


def test_gradients_of_variances_are_those_of_the_dense_inverse() -> None:
    given = [x.requires_grad_() for x in arguments()]
    c, b, u, s, *w = given
    A, _ = smnn_core.dense_system(c, b, u, s, scheme=smnn.WIENER, weights=smnn.Weights(*w))
    R_inverse = torch.linalg.inv(torch.linalg.qr(A)[1])
    variance = (R_inverse**2).sum(-1)
    g = torch.linspace(-1, 1, variance.numel(), dtype=torch.float64)
    variables = [c, s, *w]
    expected = torch.autograd.grad((variance * g).sum(), variables)
    found = torch.autograd.grad((posterior(*given).variance.flatten() * g).sum(), variables)
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-8, atol=1e-10 * y.abs().max().item())


@pytest.mark.parametrize("field", ["variance", "lag_covariance", "log_determinant", "sum_of_squares"])
def test_second_derivatives_raise(field: str) -> None:
    given = [x.requires_grad_() for x in arguments()]
    c, *_ = given
    (first,) = torch.autograd.grad(FIELDS[field](posterior(*given)).sum(), c, create_graph=True)
    with pytest.raises(smnn_core.ArgumentError, match="first order only"):
        torch.autograd.grad(first.sum(), c)


@pytest.mark.parametrize("field", ["mean", "variance", "lag_covariance", "log_determinant", "scale"])
def test_vmap_over_one_input_gives_every_member_its_gradient(field: str) -> None:
    c, b, u, s, w, *others = arguments()

    def gradients(c: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        loss = lambda c, w: (FIELDS[field](posterior(c, b, u, s, w, *others)) ** 2).sum()  # noqa: E731
        return torch.func.grad(loss, argnums=(0, 1))(c, w)

    many, weights = torch.stack([c, 1.1 * c]), torch.stack([w, 2 * w, 3 * w])
    found = torch.func.vmap(torch.func.vmap(gradients, in_dims=(None, 0)), in_dims=(0, None))(many, weights)
    expected = gradients(many[1], weights[2])
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x[1, 2], y, rtol=1e-8, atol=1e-10)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of tensors that Dynamo guards, by itself
def test_compiled_functions_have_the_same_gradients() -> None:
    given = [x.requires_grad_() for x in arguments()]

    def loss(*given: Tensor) -> Tensor:
        return evidence(*given) + posterior(*given).variance.sum()

    expected = torch.autograd.grad(loss(*given), given)
    found = torch.autograd.grad(torch.compile(loss, backend="aot_eager")(*given), given)
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-12)


def test_samples_are_as_differentiable_as_solutions() -> None:
    c, b, u, s, *w = arguments()
    sample = lambda u: posterior(c, b, u, s, *w).sample(1, torch.Generator().manual_seed(0)).pow(2).sum()  # noqa: E731
    assert torch.autograd.gradgradcheck(sample, [u.requires_grad_()], atol=1e-6)


def test_weights_may_be_numbers_and_dtypes_narrow() -> None:
    c, b, u, s = (x.float().requires_grad_() for x in arguments()[:4])
    p = smnn.posterior(c, b, u, s, weights=smnn.Weights(equation=3.0))
    (p.variance.sum() + p.log_determinant).backward()
    assert p.variance.dtype == c.grad.dtype == torch.float32
    wide = smnn.posterior(*(x.detach().double() for x in (c, b, u, s)), weights=smnn.Weights(equation=3.0))
    torch.testing.assert_close(p.variance.double(), wide.variance, rtol=1e-6, atol=0)


def test_the_diffusion_has_a_gradient() -> None:
    c, b, u, s, *_ = arguments()
    diffusion = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

    def loss(diffusion: Tensor) -> Tensor:
        weights = smnn.Weights(smoothness=smnn.wiener_weight(diffusion, s, K - 1))
        return smnn.posterior(c, b, u, s, weights=weights).log_determinant

    assert torch.autograd.gradcheck(loss, [diffusion])


@pytest.mark.parametrize("without_grad", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("field", [x for x in FIELDS if x not in ("mean", "sample")])
def test_a_look_without_grad_takes_no_gradients_away(
    field: str, without_grad: Callable[[], AbstractContextManager]
) -> None:
    given = [x.requires_grad_() for x in arguments()]
    p = posterior(*given)
    with without_grad():
        before = FIELDS[field](p)
        assert not before.requires_grad
    found = torch.autograd.grad(FIELDS[field](p).square().sum(), given[0])
    expected = torch.autograd.grad(FIELDS[field](posterior(*given)).square().sum(), given[0])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(FIELDS[field](p).detach(), before.clone())


@pytest.mark.parametrize("field", FIELDS)
def test_inputs_may_change_in_place_afterwards(field: str) -> None:
    given = [x.requires_grad_() for x in arguments()]
    p, expected = posterior(*given), FIELDS[field](posterior(*given))
    with torch.no_grad():
        for x in given:
            x.mul_(3)
    torch.testing.assert_close(FIELDS[field](p), expected)
