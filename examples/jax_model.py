"""Trains a model through the solver with JAX: a layer in the style of equinox, optax for the updates.

The model reads a noisy window of a damped oscillation and answers with its equation: a network maps the 50 points to
the coefficients of `y'' + d y' + k y = 0` and to the initial values, and the solver returns the trajectory, on which
the loss is. Nobody tells the network what damping and stiffness are: they are what makes the trajectories fit. Ends
with the errors, on windows never seen, of the trajectory and of the two coefficients, and a picture in
examples/output/jax_model/.

    python examples/jax_model.py [--steps 2000] [--seed 0] [--device gpu] [--resume] [--smoke]

What the experiments share (`_experiment`) needs torch as well.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import torch
from _experiment import BLACK, BLUE, Training, command_line, save_metrics, save_picture
from jax import Array
from torch import Tensor

import smnn_jax
from smnn_jax import HERMITE

T, STEP, NOISE = 50, 0.1, 0.1


@partial(jax.tree_util.register_dataclass, data_fields=["weight", "bias"], meta_fields=[])
@dataclass(frozen=True)
class Linear:
    """An affine map; like every layer here a pytree of its arrays, so that jit, grad and optax take it as it is."""

    weight: Array
    bias: Array

    @staticmethod
    def init(key: Array, n_in: int, n_out: int) -> Linear:
        return Linear(jax.random.normal(key, (n_out, n_in)) / jnp.sqrt(n_in), jnp.zeros(n_out))

    def __call__(self, x: Array) -> Array:
        return self.weight @ x + self.bias


@partial(jax.tree_util.register_dataclass, data_fields=["layers"], meta_fields=[])
@dataclass(frozen=True)
class MechanisticModel:
    """From one window, (T,), to the solution of its ODE, (T, 1, 3): y, y' and y''."""

    layers: tuple[Linear, ...]

    @staticmethod
    def init(key: Array, width: int = 128) -> MechanisticModel:
        sizes = [T, width, width, 4]
        keys = jax.random.split(key, len(sizes) - 1)
        return MechanisticModel(tuple(Linear.init(k, *n) for k, n in zip(keys, pairwise(sizes), strict=True)))

    def equation(self, window: Array) -> tuple[Array, Array]:
        """(damping, stiffness), both positive, and the initial values (y, y')."""
        *hidden, last = self.layers
        for layer in hidden:
            window = jax.nn.gelu(layer(window))
        out = last(window)
        return jax.nn.softplus(out[:2]), out[2:]

    def __call__(self, window: Array) -> Array:
        (damping, stiffness), initial = self.equation(window)
        coefficients = jnp.stack([stiffness, damping, jnp.ones_like(damping)])
        return smnn_jax.solve_ode(
            jnp.reshape(coefficients, (1, 1, 1, 3)),
            jnp.zeros((T, 1)),
            jnp.reshape(initial, (1, 1, 2)),
            jnp.full((1,), STEP),
            scheme=HERMITE,
        )


def windows(key: Array, count: int) -> tuple[Array, Array, Array]:
    """Oscillations with random damping, frequency, amplitude and phase: noisy, clean, and (damping, stiffness)."""
    draw = jax.random.uniform(key, (4, count, 1))
    decay, frequency = 0.1 + 0.4 * draw[0], 1.5 + 1.5 * draw[1]
    amplitude, phase = 0.5 + draw[2], 2 * jnp.pi * draw[3]
    t = STEP * jnp.arange(T)
    clean = amplitude * jnp.exp(-decay * t) * jnp.sin(frequency * t + phase)
    noisy = clean + NOISE * jax.random.normal(jax.random.fold_in(key, 1), clean.shape)
    return noisy, clean, jnp.concatenate([2 * decay, frequency**2 + decay**2], axis=1)


def loss(model: MechanisticModel, noisy: Array) -> Array:
    """Mean squared error of the trajectories; one call of the solver for the whole batch."""
    return jnp.mean((jax.vmap(model)(noisy)[:, :, 0, 0] - noisy) ** 2)


class State:
    """The state that changes in training, any pytree, as a part that `Training` can save."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree

    def state_dict(self) -> dict[str, list[Tensor]]:
        return {"leaves": [torch.from_numpy(np.array(x)) for x in jax.tree.leaves(self.tree)]}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        leaves = [jnp.asarray(x.numpy()) for x in state["leaves"]]
        self.tree = jax.tree.unflatten(jax.tree.structure(self.tree), leaves)


def train(
    model: MechanisticModel, key: Array, arguments: argparse.Namespace, batch: int = 128
) -> tuple[MechanisticModel, Training]:
    """New windows at every step, which depend on the step alone."""
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, arguments.steps))

    @jax.jit
    def update(
        model: MechanisticModel, state: optax.OptState, key: Array
    ) -> tuple[MechanisticModel, optax.OptState, Array]:
        value, gradient = jax.value_and_grad(loss)(model, windows(key, batch)[0])
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(model, updates), state, value

    now = State((model, optimizer.init(model)))
    training = Training(arguments.output / "training.pt", arguments.steps, arguments, state=now)
    for step in training:
        *tree, value = update(*now.tree, jax.random.fold_in(key, step))
        now.tree = tuple(tree)
        training.log(loss=float(value))
    return now.tree[0], training


def picture(noisy: Array, clean: Array, trajectory: Array, found: Array, true: Array, path: Path) -> None:
    """One window with its solution, and the coefficients of all, found against true."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4))
    t = STEP * np.arange(T)
    axes[0].plot(t, noisy[0], ".", color="0.5", label="window (data)")
    axes[0].plot(t, clean[0], "--", color=BLACK, lw=1, label="without noise")
    axes[0].plot(t, trajectory[0], color=BLUE, label="solution of the equation read")
    axes[0].set(xlabel="t", ylabel="y", title="a window never seen")
    axes[0].margins(y=0.35)
    axes[0].legend(loc="upper right", fontsize=9)
    for k, (ax, name) in enumerate(zip(axes[1:], ("damping d", "stiffness k"), strict=True)):
        ax.plot(true[:, k], found[:, k], ".", ms=3, color=BLUE)
        ax.axline((float(true[0, k]),) * 2, slope=1, color=BLACK, lw=1, label="found = true")
        ax.set(xlabel=f"true {name}", ylabel=f"{name} read", title=name)
        ax.legend()
    save_picture(figure, path)


def main() -> None:
    parser = command_line("jax_model", __doc__)
    parser.add_argument("--steps", type=int, default=2000)
    arguments = parser.parse_args()
    if arguments.size == "smoke":
        arguments.steps = 20
    jax.config.update("jax_default_device", jax.devices(arguments.device)[0])
    keys = jax.random.split(jax.random.key(arguments.seed), 3)

    model, training = train(MechanisticModel.init(keys[0]), keys[1], arguments)

    noisy, clean, true = windows(keys[2], 1000)
    trajectory = jax.jit(jax.vmap(model))(noisy)[:, :, 0, 0]
    found = jax.vmap(model.equation)(noisy)[0]
    damping, stiffness = (100 * jnp.median(jnp.abs(found - true) / true, axis=0)).tolist()
    error, noise = (float(jnp.sqrt(jnp.mean((x - clean) ** 2))) for x in (trajectory, noisy))
    print(f"root mean square error of the trajectory: {error:.4f}")
    print(f"that of the data it was read from:        {noise:.4f}")
    print(f"median relative error of the damping {damping:.1f} %, of the stiffness {stiffness:.1f} %")
    picture(noisy, clean, trajectory, found, true, arguments.output / "jax_model.png")
    summary = [
        {"metric": "error of the trajectory over that of its data", "ours": error / noise},
        {"metric": "median relative error of the damping, %", "ours": damping},
        {"metric": "median relative error of the stiffness, %", "ours": stiffness},
    ]
    save_metrics(arguments.output, arguments, summary, loss=training.history["loss"], seconds=training.seconds)


if __name__ == "__main__":
    main()
