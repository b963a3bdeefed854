"""One long trajectory, its time split over the devices of a mesh."""

import jax
import jax.numpy as jnp
import numpy as np

import smnn_jax
from smnn_jax import HERMITE

jax.config.update("jax_enable_x64", True)
mesh = jax.make_mesh((len(jax.devices()),), ("time",))

T = 1024
c = jnp.array([[[[4.0, 0.2, 1.0, 0.0]]]])
b = jnp.sin(0.1 * jnp.arange(T))[:, None]
u, s = jnp.array([[[1.0, 0.0]]]), jnp.array([0.1])


def loss(b, **options):
    y = smnn_jax.solve_ode(c, b, u, s, scheme=HERMITE, **options)
    return jnp.sum(y[:, 0, 0] ** 2), y


gradient = jax.jit(jax.grad(loss, has_aux=True), static_argnames="time_axis")
with jax.set_mesh(mesh):
    db, y = jax.block_until_ready(gradient(b, time_axis="time"))
db_alone, y_alone = gradient(b)

print(
    f"{mesh.size} devices; y {y.shape} in parts of "
    f"{y.addressable_shards[0].data.shape}"
)
print(
    f"against one device: y {np.abs(y - y_alone).max():.0e}, "
    f"gradient {np.abs(db - db_alone).max():.0e}"
)
