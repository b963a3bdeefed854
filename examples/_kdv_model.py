"""The predictors of the KdV experiment: from 10 points in time of a field to the next 10, the first of them shared.

`Mechanistic` is the model of Chen et al. (Scalable Mechanistic Neural Networks, ICLR 2025): at every point x of the
grid, the field of the window ahead is the solution of one linear ODE of order R = 4,

    c_0 y + c_1 y' + c_2 y'' + c_3 y''' + c_4 y'''' = b,    y(0) = u(x), the last field given,

whose coefficients c (T, R+1), right-hand side b (T,), initial derivatives and step size come from convolutional
networks that see the window given: the ODE knows its neighbours through these only. It may get to know them better: in
a second look, further networks see the solutions of the window ahead, all points of the grid side by side, and correct
the ODEs, which are solved again, and so on, as waveform relaxation couples systems that are solved one by one
(Lelarasmee et al., IEEE Trans. CAD 1, 1982). The last networks may look several times. `Convolutional` has the same
networks, which predict the increments themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from smnn_torch import ODE, TAYLOR, Scheme, solve_ode

WINDOW = 10
"""T: points in time of a window, given or predicted"""
ORDER = 4
"""R"""
SPREAD = 0.1
"""Scale of what the last layers give at the start, and of the coefficients: small beside the 1 of y'."""


class _Block(nn.Module):
    """x + conv(gelu(conv(x))), the branch small at the start."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList([nn.Conv1d(width, width, kernel) for _ in range(2)])
        with torch.no_grad():
            self.convolutions[1].weight.mul_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.convolutions
        return x + _circular(second, functional.gelu(_circular(first, x)))


class ResNet(nn.Module):
    """A residual network on the circle: (B, n_in, X) to (B, n_out, X), by features (B, width, X).

    Args:
        n_in: channels in.
        n_out: channels out.
        width: channels between ("base filters").
        n_blocks: of two convolutions each.
        kernel: points of a convolution, odd.
    """

    def __init__(self, n_in: int, n_out: int, *, width: int, n_blocks: int, kernel: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(n_in, width, kernel)
        self.blocks = nn.Sequential(*[_Block(width, kernel) for _ in range(n_blocks)])
        self.last = nn.Conv1d(width, n_out, 1)
        with torch.no_grad():
            self.last.weight.mul_(SPREAD)
            self.last.bias.zero_()

    def features(self, x: Tensor, before: Tensor | float = 0.0) -> Tensor:
        """Features that go on from those of another network."""
        return self.blocks(before + _circular(self.first, x))

    def outputs(self, features: Tensor) -> Tensor:
        """(B, n_out, X)."""
        return self.last(functional.gelu(features))

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_out, X)."""
        return self.outputs(self.features(x))


class Mechanistic(nn.Module):
    """The next window as the solution of one ODE per point of the grid.

    Of two networks, one gives the left-hand side, coefficients and step size, the other the right-hand side and the
    initial derivatives; a single one gives all. In a second look and after, networks go on from the features of those
    before them, and add to what these gave. The start is y' = 0, persistence, up to small random numbers. The unit of
    time is a matter of scale: networks give increments per window of T-1 steps, which `per_window` translates.

    Args:
        scale: of the fields, which the networks see divided by it.
        n_networks: 1 or 2.
        n_blocks: of the networks of each look.
        again: how many more times those of the last look do so, from the second on.
        step_size: where the step sizes start; they stay within half of it.
        scheme: as for `solve_ode`.
        network: other arguments of `ResNet`.
    """

    def __init__(
        self,
        scale: float,
        n_networks: int,
        *,
        n_blocks: Sequence[int],
        again: int = 0,
        step_size: float,
        scheme: Scheme = TAYLOR,
        **network: int,
    ) -> None:
        super().__init__()
        if again and len(n_blocks) < 2:
            raise ValueError("again: the networks of the first look see another window than those after it.")
        self.scale, self.step_size, self.scheme = scale, step_size, scheme
        self.n_looks = len(n_blocks) + again
        self.sizes = [WINDOW * (ORDER + 1), 1, WINDOW, ORDER - 1]  # of coefficients, step, right-hand side, derivatives
        outputs = [sum(self.sizes)] if n_networks == 1 else [sum(self.sizes[:2]), sum(self.sizes[2:])]
        self.looks = nn.ModuleList()
        for look, blocks in enumerate(n_blocks):
            n_in = WINDOW if look == 0 else WINDOW - 1
            self.looks.append(nn.ModuleList([ResNet(n_in, n, n_blocks=blocks, **network) for n in outputs]))
        self.register_buffer("start", torch.eye(ORDER + 1)[1], persistent=False)
        # d_r (T s)^r / r! is what y^(r)(0) = d_r adds to y by the end of the window
        orders = torch.arange(1.0, ORDER)
        per_window = torch.exp(torch.lgamma(orders + 1)) / ((WINDOW - 1) * step_size) ** orders
        self.register_buffer("per_window", per_window, persistent=False)

    def ode(self, last: Tensor, outputs: Tensor) -> ODE:
        """The ODEs, batch axes (B, X), that start from a field (B, X), of what the networks give, (B, n, X)."""
        c, s, b, d = outputs.movedim(1, -1).split(self.sizes, dim=-1)
        initial = torch.cat([last[..., None], d * self.per_window], dim=-1)
        return ODE(
            coefficients=(self.start + SPREAD * c.unflatten(-1, (WINDOW, ORDER + 1)))[..., None, None, :],
            rhs=(b * self.per_window[0])[..., None],
            initial_values=initial[..., None, None, :],
            step_sizes=self.step_size * (0.5 + torch.sigmoid(s)),
        )

    def forward(self, window: Tensor) -> Tensor:
        """The next window (B, T, X), which begins where the one given, (B, T, X), ends."""
        seen = window / self.scale
        last, outputs, features = seen[:, -1], 0.0, [0.0] * len(self.looks[0])
        for look in range(self.n_looks):
            networks = self.looks[min(look, len(self.looks) - 1)]
            features = [network.features(seen, before) for network, before in zip(networks, features, strict=True)]
            given = [network.outputs(x) for network, x in zip(networks, features, strict=True)]
            outputs = outputs + torch.cat(given, dim=1)
            y = solve_ode(*self.ode(last, outputs), scheme=self.scheme)[..., 0, 0].movedim(-1, 1)
            seen = (y - last[:, None])[:, 1:]
        return self.scale * y


class Convolutional(nn.Module):
    """The next window as increments from the last field given: the sum of as many networks as `Mechanistic` has.

    Neither model starts from an extrapolation of the last fields given: that lowers the error of one window and raises
    that of roll-outs, where it amplifies what is wrong with the predictions fed back.

    Args:
        scale: of the fields, which the networks see divided by it.
        n_networks: how many.
        network: arguments of `ResNet`.
    """

    def __init__(self, scale: float, n_networks: int, **network: int) -> None:
        super().__init__()
        self.scale = scale
        self.networks = nn.ModuleList([ResNet(WINDOW, WINDOW - 1, **network) for _ in range(n_networks)])

    def forward(self, window: Tensor) -> Tensor:
        """As `Mechanistic`."""
        last = window[:, -1:]
        increments = sum(network(window / self.scale) for network in self.networks)
        return torch.cat([last, last + self.scale * increments], dim=1)


class Persistence(nn.Module):
    """The last field given, for ever."""

    def forward(self, window: Tensor) -> Tensor:
        """As `Mechanistic`."""
        return window[:, -1:].expand_as(window)


def _circular(convolution: nn.Conv1d, x: Tensor) -> Tensor:
    """A convolution on the circle. The module's own circular padding is the same."""
    half = convolution.kernel_size[0] // 2
    return convolution(functional.pad(x, (half, half), mode="circular"))


@torch.no_grad()
def roll_out(model: nn.Module, window: Tensor, n_windows: int) -> Tensor:
    """Feeds predictions back: from (B, T, X) to what follows, (B, (T-1) n_windows, X)."""
    parts = []
    for _ in range(n_windows):
        window = model(window)
        parts.append(window[:, 1:])
    return torch.cat(parts, dim=1)


def relative_error(predicted: Tensor, true: Tensor) -> Tensor:
    """Σ_x (predicted - true)² / Σ_x predicted², as published, of fields (..., X): (...)."""
    return (predicted - true).square().sum(-1) / predicted.square().sum(-1)


def seconds_per_step(model: Mechanistic, window: Tensor, repeats: int = 20) -> tuple[float, float]:
    """Of a forward and backward pass, the fastest of some: of the whole model, and of all its solves."""

    def whole() -> None:
        model(window).sum().backward()

    outputs = window.new_zeros(len(window), sum(model.sizes), window.shape[-1])
    parameters = [x.detach().requires_grad_() for x in model.ode(window[:, -1], outputs)]

    def solver() -> None:
        for _ in range(model.n_looks):
            solve_ode(*parameters, scheme=model.scheme).sum().backward()

    def seconds(run: Callable[[], None]) -> float:
        began = time.perf_counter()
        run()
        if window.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began

    fastest = [min(seconds(run) for _ in range(repeats)) for run in (whole, solver)]
    model.zero_grad()
    return fastest[0], fastest[1]
