"""The solvers that this library is compared with, as readable reference code.

| function | what it is |
| --- | --- |
| `dense_least_squares` | the problem of `smnn_core.solve_ode` by one dense QR |
| `smnn_cholesky` | the same problem as published: block Cholesky on the normal equations, sequential in time |
| `mnn_dense` | the predecessor: slack variable and central rows, dense Cholesky |
| `mnn_conjugate_gradient` | the predecessor's system by conjugate gradients |

`normal_equations` gives the matrix that `smnn_cholesky` factors, for comparison with other banded solvers.
They take the arguments of `smnn_core.solve_ode`, on any array namespace, and give y of the same shape. On torch tensors
they are differentiable once; `dense_least_squares` to any order.

Sources: Pervez, Locatello, Gavves, ICML 2024, arXiv:2402.13077 (MNN); Chen et al., ICLR 2025, arXiv:2410.06074 (S-MNN).
"""

from ._cholesky import normal_equations, smnn_cholesky
from ._dense import dense_least_squares
from ._mnn import mnn_conjugate_gradient, mnn_dense

__all__ = [
    "dense_least_squares",
    "mnn_conjugate_gradient",
    "mnn_dense",
    "normal_equations",
    "smnn_cholesky",
]
