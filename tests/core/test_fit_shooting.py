"""Shooting, where fits whose trajectories follow data first lose their way."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import smnn_core as smnn
from benchmarks.hidden_problems import HIDDEN
from smnn_core.fitting._observed import Observed
from smnn_core.fitting._parameters import Parameters
from smnn_core.fitting._setting import Setting
from smnn_core.fitting._shooting import LOCAL, integrated
from smnn_core.fitting._taylor import evaluate


def enzyme(t, y, θ):
    """E + S <-> C -> E + P: E' = -k1 E S + (k2 + k3) C, and so on."""
    (E, S, C, _), d = np.moveaxis(y[..., 0], -1, 0), y[..., 1]
    k1, k2, k3 = (θ[..., i] + 0 * E for i in range(3))
    bound = k1 * E * S
    rates = [-bound + (k2 + k3) * C, -bound + k2 * C, bound - (k2 + k3) * C, k3 * C]
    J, P = np.zeros((*y.shape[:2], 4, 4, 2)), np.zeros((*y.shape[:2], 4, 3))
    for i, sign in enumerate((-1, -1, 1, 0)):
        J[..., i, 0, 0], J[..., i, 1, 0] = -sign * k1 * S, -sign * k1 * E
        J[..., i, i, 1] = 1
        P[..., i, 0] = -sign * E * S
    for i, (back, on) in enumerate(((1, 1), (1, 0), (-1, -1), (0, 1))):
        J[..., i, 2, 0] = -back * k2 - on * k3
        P[..., i, 1], P[..., i, 2] = -back * C, -on * C
    return d - np.stack(rates, -1), J, P


def test_rates_a_thousand_times_faster_than_the_data_of_one_variable():
    """Collocation alone does not converge from there, nor from the truth."""
    problem = next(p for p in HIDDEN if "rates 1000" in p.name)
    data, start = problem.data(1)[0], problem.starts(1)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", smnn.ConvergenceWarning)  # of rates that are not determined
        r = smnn.fit(enzyme, problem.t, data, start, noise=0.01, initial=[0.1, 1, 0, 0], bounds=(0, None))
    assert r.converged
    assert r.cost < ((data - problem.exact)[:, 3] ** 2).sum() / 0.01**2
    assert abs(r.parameters[2] - 1) < 4 * r.standard_errors[2]


def decay_towards_input(t, y, θ, u):
    """y' = -k (y - u)."""
    k, value = θ[..., 0] + 0 * t, y[..., 0, 0]
    J = np.stack([k, np.ones_like(k)], -1)[..., None, None, :]
    return (y[..., 0, 1] + k * (value - u[..., 0]))[..., None], J, (value - u[..., 0])[..., None, None]


@pytest.mark.parametrize("jumps", [None, ([1.0, 2.5], [[2.0], [-1.0]])])
def test_experiments_are_integrated_over_switches_and_jumps_of_their_own(jumps):
    times, k, switch = [np.linspace(0, 4, 9), np.linspace(1, 3, 5)], np.array([[1.3]]), [[1.5], [2.2]]
    inputs = [lambda t, at=at[0]: np.where(t < at, 1.0, 0.0) for at in switch]
    if jumps is not None:
        jumps = [1.7, 2.5], jumps[1]
    parameters = Parameters.of(k[0], None)
    observed = Observed.of(times, [np.ones((len(t), 1)) for t in times], 0.1, None, None)
    given = dict.fromkeys(("observe", "variables", "steady", "t0", "guess", "scale"))
    setting = Setting.of(decay_towards_input, observed, parameters, order=1, noise=0.1, initial=[3.0], inputs=inputs,
                         loss="squares", switches=switch, jumps=jumps, tolerance=1e-4, **given)  # fmt: skip
    t, z, solved = integrated(setting, k, np.zeros((2, 1, 1)))
    assert solved.all()
    for e, (x, at) in enumerate(zip(times, switch, strict=True)):

        def exact(time, begin=x[0], at=at[0]):
            y = 1 + 2 * np.exp(-1.3 * (time - begin))
            y -= np.where(time > at, 1 - np.exp(-1.3 * (time - at)), 0.0)
            for when, added in zip(*jumps, strict=True) if jumps else ():
                y += np.where(time > when, added[0] * np.exp(-1.3 * (time - when)), 0.0)
            return y

        y = evaluate(t[e : e + 1], z[e : e + 1], x[None], 1)[0, :, 0, 0] * setting.size[0, 0]
        y += setting.jumped(x[None], k, e)[0, :, 0]
        np.testing.assert_allclose(y, exact(x), rtol=LOCAL * t.shape[1])  # every interval adds as much at most
