"""A batch spread over the devices of a mesh: each solves its own part."""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import smnn_jax
from smnn_jax import HERMITE

jax.config.update("jax_enable_x64", True)
mesh = jax.make_mesh(
    (len(jax.devices()),), ("batch",), axis_types=(AxisType.Auto,)
)
spread = NamedSharding(mesh, P("batch"))

B, T = 1024, 100
stiffness = jax.device_put(jnp.linspace(1, 9, B), spread)


@jax.jit
def loss(stiffness, damping):
    one, zero = jnp.ones(B), jnp.zeros(B)
    c = jnp.stack([stiffness, damping * one, one, zero], axis=-1)[
        :, None, None, None, :
    ]
    b, u, s = jnp.zeros((1, 1)), jnp.array([[[1.0, 0.0]]]), jnp.array([0.1])
    y = smnn_jax.solve_ode(c, b, u, s, n_steps=T, scheme=HERMITE)
    return jnp.mean(y[..., 0] ** 2), y


(value, y), gradients = jax.value_and_grad(
    loss, argnums=(0, 1), has_aux=True
)(stiffness, 0.2)
print(
    f"{mesh.size} devices; y {y.shape} in parts of "
    f"{y.addressable_shards[0].data.shape}"
)
print(
    "gradient of each stiffness, in parts of "
    f"{gradients[0].addressable_shards[0].data.shape}"
)
print(f"gradient of the damping they share: {gradients[1]:.4f}")
