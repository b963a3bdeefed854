"""A test of an installed wheel: solve y'' + 4y = 0 with the compiled engine, to its known solution and gradient."""

import numpy as np

import smnn_core as smnn

smnn.show_config()
T, s = 501, 0.01
c = np.zeros((T, 1, 1, 5))
c[..., 0], c[..., 2] = 4, 1
arguments = (c, np.zeros((T, 1)), np.array([[[1.0, 0.0]]]), np.full(T - 1, s))
y, vjp = smnn.solve_ode_vjp(*arguments, scheme=smnn.HERMITE, engine="cpu")
time = s * np.arange(T)
error = np.abs(y[:, 0, 0] - np.cos(2 * time)).max()
print(f"error of y: {error:.1e}")
# the discretisation error of these rows (smnn_core/_schemes.py) is far below
assert error < 1e-6, error

# the initial value scales the solution: dy/du = y
g = np.ones_like(y)
slope = vjp(g).initial_values[0, 0, 0]
print(f"error of the gradient: {abs(slope - y.sum()):.1e}")
assert abs(slope - y.sum()) < 1e-8 * np.abs(y).sum(), slope
