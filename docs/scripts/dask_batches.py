"""A batch larger than memory, solved chunk by chunk on all cores."""

import dask.array as da
import numpy as np

import smnn_core as smnn

B, T = 20_000, 200
rng = da.random.default_rng(0)
stiffness = rng.uniform(
    1, 9, size=(B, 1, 1, 1), chunks=(2000, 1, 1, 1)
)  # drawn when its chunk is solved
one = da.ones_like(stiffness)
c = da.stack([stiffness, 0.2 * one, one, 0 * one], axis=-1).rechunk(
    {-1: 4}
)  # y'' + 0.2 y' + k y = 0


def solve(c):
    """A chunk of the batch; c is of NumPy, or of CuPy if the chunks are."""
    b, u, s = (
        np.zeros_like(c[:1, :, :, 0, 0]),
        np.zeros_like(c[:1, :, :, 0, :2]),
        np.zeros_like(c[0, 0, 0, 0, :1]),
    )
    u[..., 0], s[...] = 1.0, 0.05
    return smnn.solve_ode(c, b, u, s, n_steps=T, scheme=smnn.HERMITE)


y = da.map_blocks(
    solve, c, dtype=c.dtype, chunks=(c.chunks[0], T, 1, 4), drop_axis=2
)
print(
    "y:",
    y.shape,
    "in chunks of",
    y.chunksize,
    f"- {y.nbytes / 2**20:.0f} MiB in all",
)
energy = (y[..., 0, 1] ** 2 + stiffness[:, :, 0, 0] * y[..., 0, 0] ** 2) / 2
print(
    "energy, averaged over the batch, at the start and at the end:",
    energy.mean(0)[:: T - 1].compute().round(4),
)
