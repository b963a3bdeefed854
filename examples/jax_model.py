"""Trains a model through the solver with JAX: a layer in the style of equinox, optax for the updates.

The model reads a noisy window of a damped oscillation and answers with its equation: a network maps the 50 points to
the coefficients of `y'' + d y' + k y = 0` and to the initial values, and the solver returns the trajectory, on which
the loss is. Nobody tells the network what damping and stiffness are: they are what makes the trajectories fit. Ends
with the errors, on windows never seen, of the trajectory and of the two coefficients.

    python examples/jax_model.py [--steps 2000] [--seed 0] [--smoke]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import optax
from jax import Array

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


def train(model: MechanisticModel, key: Array, steps: int, batch: int = 128) -> MechanisticModel:
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))

    @jax.jit
    def update(
        model: MechanisticModel, state: optax.OptState, key: Array
    ) -> tuple[MechanisticModel, optax.OptState, Array]:
        value, gradient = jax.value_and_grad(loss)(model, windows(key, batch)[0])
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(model, updates), state, value

    state = optimizer.init(model)
    for step in range(steps):
        model, state, value = update(model, state, jax.random.fold_in(key, step))
        if step % max(1, steps // 10) == 0:
            print(f"step {step:5d}   loss {value:.4f}", flush=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    arguments = parser.parse_args()
    keys = jax.random.split(jax.random.key(arguments.seed), 3)

    model = train(MechanisticModel.init(keys[0]), keys[1], 20 if arguments.smoke else arguments.steps)

    noisy, clean, true = windows(keys[2], 1000)
    trajectory = jax.jit(jax.vmap(model))(noisy)[:, :, 0, 0]
    found = jax.vmap(model.equation)(noisy)[0]
    error = jnp.median(jnp.abs(found - true) / true, axis=0)
    print(f"root mean square error of the trajectory: {jnp.sqrt(jnp.mean((trajectory - clean) ** 2)):.4f}")
    print(f"that of the data it was read from:        {jnp.sqrt(jnp.mean((noisy - clean) ** 2)):.4f}")
    print(f"median relative error of the damping {100 * error[0]:.1f} %, of the stiffness {100 * error[1]:.1f} %")


if __name__ == "__main__":
    main()
