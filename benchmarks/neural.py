"""`python -m benchmarks.neural`: the friction of a pendulum as a network, trained here and as a neural ODE.

The problem of examples/pendulum.py: five trajectories of 401 noisy positions, no velocities, a network 1-32-32-1 for
the friction. Beside `smnn_torch.fit`, neural ODEs with the same network, data and float64, trained by Adam (1e-2):
initial values are learned with the network, trajectories integrated by Dormand-Prince 5 to 1e-4 and compared with the
data, through torchdiffeq (adjoint method, and derivatives of its steps) and diffrax. Each peer has `--times` (20) times
our time, compilation not counted, and is asked for its error on the way. Times are of the processor, of all threads, so
that other work on the machine does not count; time on the clock is reported, too.

    OMP_NUM_THREADS=1 python -m benchmarks.neural [--seed 0] [--times 20] [--peers adjoint torchdiffeq diffrax] [--save]

--save writes benchmarks/results/neural.json, where rows of solvers that were not run are kept.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PEERS = ["adjoint", "torchdiffeq", "diffrax"]
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))

from _pendulum import N_STEPS, NOISE, STEP, friction_error, network, positions, trajectories  # noqa: E402
from pendulum import RATE, train  # noqa: E402

from . import store  # noqa: E402

Row = dict[str, Any]
TOLERANCE = 1e-4
"""Of the integrators, relative and absolute: a five-hundredth of the noise."""
REPORTS = (1.0, 5.0, 10.0, 20.0)
"""Multiples of our time after which the error of a peer is looked at."""


def ours(exact: Tensor, data: Tensor, seed: int) -> Row:
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two steps
        train(data[:, :51], 1)  # what is loaded at first use is not part of the time
    torch.manual_seed(seed)
    began = time.process_time()
    fit, net, clock = train(data)
    return {
        "solver": "smnn_torch.fit",
        "seconds": time.process_time() - began,
        "clock": clock,
        "steps": int(fit.iterations),
        "error": friction_error(net, exact),
    }


def guess(data: Tensor) -> Tensor:
    """Initial values to start from, (5, 2): the first position, and the slope of a line through the first ten."""
    t = STEP * torch.arange(10, dtype=data.dtype)
    first = data[:, :10, 0]
    slope = ((t - t.mean()) * (first - first.mean(1, keepdim=True))).sum(1) / ((t - t.mean()) ** 2).sum()
    return torch.stack([first.mean(1) - slope * t.mean(), slope], dim=-1)


def through_torchdiffeq(
    exact: Tensor, data: Tensor, seed: int, budget: float, unit: float, *, adjoint: bool
) -> list[Row]:
    from torchdiffeq import odeint, odeint_adjoint

    integrate = odeint_adjoint if adjoint else odeint

    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def forward(self, t: Tensor, z: Tensor) -> Tensor:
            q, v = z[..., :1], z[..., 1:]
            return torch.cat([v, -q.sin() - self.network(v)], dim=-1)

    torch.manual_seed(seed)
    field, start = Field(), nn.Parameter(guess(data))
    optimizer = torch.optim.Adam([*field.parameters(), start], RATE)
    t = STEP * torch.arange(N_STEPS, dtype=data.dtype)

    def step() -> None:
        optimizer.zero_grad()
        z = integrate(field, start, t, rtol=TOLERANCE, atol=TOLERANCE, method="dopri5")
        ((z[..., :1].movedim(0, 1) - data) / NOISE).square().mean().backward()
        optimizer.step()

    name = "torchdiffeq, adjoint" if adjoint else "torchdiffeq"
    return timed(name, step, lambda: friction_error(field.network, exact), budget, unit)


def through_diffrax(exact: Tensor, data: Tensor, seed: int, budget: float, unit: float) -> list[Row]:
    import diffrax
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import optax

    jax.config.update("jax_enable_x64", True)
    torch.manual_seed(seed)
    net = network()
    layers = [
        (jnp.asarray(x.weight.detach().numpy()), jnp.asarray(x.bias.detach().numpy()))
        for x in net
        if hasattr(x, "weight")
    ]
    t, observed = STEP * jnp.arange(N_STEPS), jnp.asarray(data[..., 0].numpy())

    def apply(layers: Any, v: Any) -> Any:
        for W, b in layers[:-1]:
            v = jnp.tanh(W @ v + b)
        return layers[-1][0] @ v + layers[-1][1]

    def field(_: Any, z: Any, layers: Any) -> Any:
        return jnp.concatenate([z[1:], -jnp.sin(z[:1]) - apply(layers, z[1:])])

    def loss(held: Any) -> Any:
        layers, start = held

        def one(z: Any) -> Any:
            controller = diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE)
            terms, saveat = diffrax.ODETerm(field), diffrax.SaveAt(ts=t)
            run = diffrax.diffeqsolve(
                terms, diffrax.Dopri5(), t[0], t[-1], STEP, z, layers, saveat=saveat, stepsize_controller=controller
            )
            return run.ys[:, 0]

        return jnp.mean(((jax.vmap(one)(start) - observed) / NOISE) ** 2)

    optimizer, held = optax.adam(RATE), (layers, jnp.asarray(guess(data).numpy()))
    state = optimizer.init(held)

    @eqx.filter_jit
    def update(held: Any, state: Any) -> Any:
        updates, state = optimizer.update(jax.grad(loss)(held), state)
        return optax.apply_updates(held, updates), state

    jax.block_until_ready(update(held, state))

    def step() -> None:
        nonlocal held, state
        held, state = jax.block_until_ready(update(held, state))

    def error() -> float:
        linear = [x for x in net if hasattr(x, "weight")]
        with torch.no_grad():
            for x, (W, b) in zip(linear, held[0], strict=True):
                x.weight.copy_(torch.from_numpy(np.array(W)))
                x.bias.copy_(torch.from_numpy(np.array(b)))
        return friction_error(net, exact)

    return timed("diffrax", step, error, budget, unit)


def timed(name: str, step: Any, error: Any, budget: float, unit: float) -> list[Row]:
    """Steps until the budget, a number of our times `unit`, is spent, with the errors on the way."""
    rows: list[Row] = []
    began, clock, steps = time.process_time(), time.perf_counter(), 0
    marks = [x for x in REPORTS if x < budget] + [budget]
    while marks:
        step()
        steps += 1
        seconds = time.process_time() - began
        if seconds >= marks[0] * unit:
            on_clock = time.perf_counter() - clock
            rows.append(
                {
                    "solver": name,
                    "times": marks.pop(0),
                    "seconds": seconds,
                    "clock": on_clock,
                    "steps": steps,
                    "error": error(),
                }
            )
            print(line(rows[-1]), flush=True)
    return rows


def line(row: Row) -> str:
    return (
        f"{row['solver']:20} {row['seconds']:8.1f} s {row['steps']:6} steps   friction {100 * row['error']:6.1f} % off"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--times", type=float, default=20.0, help="multiple of our time that a peer has")
    parser.add_argument("--peers", nargs="*", default=PEERS, choices=PEERS)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/neural.json")
    arguments = parser.parse_args()
    with store.measuring(arguments.save):
        exact = trajectories()
        data = positions(exact, arguments.seed)
        rows = [ours(exact, data, arguments.seed)]
        print(line(rows[0]), flush=True)
        run = {
            "adjoint": partial(through_torchdiffeq, adjoint=True),
            "torchdiffeq": partial(through_torchdiffeq, adjoint=False),
            "diffrax": through_diffrax,
        }
        for name in arguments.peers:
            rows += run[name](exact, data, arguments.seed, arguments.times, rows[0]["seconds"])
    if arguments.save:
        path = ROOT / "benchmarks" / "results" / "neural.json"
        before = store.load(path)["rows"] if path.exists() else []
        new = {row["solver"] for row in rows}
        rows += [row for row in before if row["solver"] not in new]
        result = {"seed": arguments.seed, "threads": torch.get_num_threads(), "load": os.getloadavg()[0], "rows": rows}
        store.save(path, result)


if __name__ == "__main__":
    main()
