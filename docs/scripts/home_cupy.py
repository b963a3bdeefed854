import cupy as cp

import smnn_core as smnn

t = cp.linspace(0, 10, 101)
c = cp.array([[[[4.0, 0.0, 1.0, 0.0]]]])  # 4 y + y'' = 0
b = cp.array([[0.0]])
u = cp.array([[[1.0, 0.0]]])  # y(0) = 1, y'(0) = 0

y, vjp = smnn.solve_ode_vjp(c, b, u, cp.diff(t))
g = cp.zeros_like(y)
g[:, 0, 0] = (
    2 * y[:, 0, 0]
)  # of the sum of squares of y, without its derivatives
gradients = vjp(g)
print(f"y(10) = {float(y[-1, 0, 0]):.4f}")
print("gradient of c:", gradients.coefficients.round(2))
