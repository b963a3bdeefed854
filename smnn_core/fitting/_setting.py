"""The arguments of `fit`, checked and in the shapes that its iterations work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .._arrays import Array
from .._errors import ArgumentError, ShapeError
from .._validate import check_integer
from ._collocated import Discretization, Initial
from ._gauss_newton import State
from ._losses import Loss, loss_of
from ._model import Model
from ._observed import TRANSFORMS, Observed
from ._parameters import Parameters
from ._start import first_mesh, median, noise_of_differences, sizes_of, through, time_scales

__all__ = ["Setting"]

POINTS = 3
"""Collocation points of an interval."""
EXACT = 1e6
"""Weight of initial values that are known exactly, in their size."""


@dataclass(frozen=True, eq=False)
class Setting:
    """All that does not change along a fit."""

    model: Model
    observed: Observed
    span: Array
    """(S, E, 2)"""
    size: Array
    """(S, V)"""
    known: Initial
    """(S, E, V, q) each, in units of y: numbers, and inverse deviations (infinite for exact)"""
    loss: Loss
    guess: Callable[[Array], Array] | None
    switches: Array | None
    """(E, n)"""
    tolerance: float

    @staticmethod
    def of(
        residual: Callable[..., Any],
        observed: Observed,
        parameters: Parameters,
        *,
        order: int,
        observe: Callable[..., Any] | None,
        variables: Any,
        noise: Any,
        initial: Any,
        inputs: Any,
        steady: Any,
        loss: str,
        switches: Any,
        jumps: Any,
        t0: Any,
        guess: Any,
        scale: Any,
        tolerance: float,
    ) -> Setting:
        """From the arguments of `fit`.

        Raises:
            ShapeError, ArgumentError: naming the argument.
        """
        S, E, _, m = observed.values.shape
        order = check_integer("order, the highest derivative in the equations,", order, least=1)
        if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float, np.floating, np.integer)):
            raise TypeError(f"tolerance must be a number, got {type(tolerance).__name__}.")
        if not 0 < tolerance < 1:
            raise ArgumentError(
                f"tolerance must lie between 0 and 1, a relative change of the parameters; got {tolerance}."
            )
        _check_initial(initial)
        V = _variables(variables, observe, m, initial, scale, order)
        if inputs is not None:
            inputs = list(inputs) if observed.several else [inputs]
            if len(inputs) != E:
                raise ShapeError(f"inputs has {len(inputs)} experiments, data {E}.")
        function = initial if callable(initial) else None
        sd = noise if callable(noise) else None
        model = Model(residual, observe, sd, function, parameters, inputs, observed.transforms, V, order)
        if steady is not None and steady is not False:
            before = None
            if steady is not True:
                if inputs is None:
                    raise ArgumentError(
                        f"steady must be True, or inputs before the first time where inputs= are given; got {steady!r}."
                    )
                before = list(steady) if observed.several else [steady]
                if len(before) != E:
                    raise ShapeError(f"steady has inputs of {len(before)} experiments, data {E}.")
            model = replace(model, steady=True, steady_inputs=before)
        span = observed.span(t0)
        marks = _switches(switches, observed.several, E)
        if jumps is not None:
            at, changes = _jumps(jumps, observed.several, E, V, span)
            model = replace(model, jumps=changes, jump_times=at)
            marks = at if marks is None else np.concatenate([marks, at], axis=1)
        if function is not None:
            start = np.broadcast_to(parameters.inner(parameters.start), (*observed.batch, parameters.p))
            φ = np.repeat(start.reshape(S, -1), E, axis=0)
            values, _ = model.initial_values(span[:, :, 0].reshape(S * E, 1), φ, np.tile(np.arange(E), S))
            values = values.reshape(S, E, V, order)
            known = Initial(values, np.where(np.isfinite(values), np.inf, 0.0))
        elif initial is None:
            known = Initial(np.full((S, E, V, order), np.nan), np.zeros((S, E, V, order)))
        else:
            known = _known(initial, S, E, V, order)
        size = _sizes(observed, observe, known.values, scale, V)
        if model.steady and order > 1:
            known.values[..., 1:], known.weights[..., 1:] = 0.0, np.inf
        if guess is not None and not callable(guess):
            numbers = np.asarray(guess, float)
            if numbers.shape not in ((V,), (1, V)):
                raise ShapeError(f"guess must be {(V,)} numbers, or a function of time; got shape {numbers.shape}.")
            guess = lambda t: numbers  # noqa: E731
        known = Initial(np.nan_to_num(known.values), known.weights)
        return Setting(model, observed, span, size, known, loss_of(loss), guess, marks, tolerance)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"guess": None}  # (only a start needs it)

    def __deepcopy__(self, _: Any) -> Setting:
        return self  # (nothing writes into it)

    @property
    def S(self) -> int:
        return self.observed.values.shape[0]

    @property
    def E(self) -> int:
        return self.observed.values.shape[1]

    @property
    def free(self) -> Array:
        """Initial values that nothing fixes, (S,)."""
        return np.zeros(self.S) if self.model.steady else (self.known.weights == 0).sum((1, 2, 3)).astype(float)

    @property
    def has_hidden(self) -> bool:
        """True if there are variables that were not observed themselves."""
        return self.model.observe is not None or not self.observed.seen.any(2).all()

    def take(self, sets: Array) -> Setting:
        """Some sets."""
        o = self.observed
        o = replace(o, times=o.times[sets], values=o.values[sets], seen=o.seen[sets], raw=o.raw[sets],
                    noise=None if o.noise is None else o.noise[sets])  # fmt: skip
        known = Initial(*(x[sets] for x in self.known))
        return replace(self, observed=o, span=self.span[sets], size=self.size[sets], known=known)

    def discretization(self, t: Array) -> Discretization:
        """On meshes (M, N+1)."""
        o, (S, E) = self.observed, (self.S, self.E)

        def flat(x: Array) -> Array:
            return x.reshape(S * E, *x.shape[2:])

        size = np.repeat(self.size, E, axis=0)
        weights = np.minimum(flat(self.known.weights) * size[..., None], EXACT)
        exact = Initial(flat(self.known.values) / size[..., None], weights)
        who = np.tile(np.arange(E), S)
        return Discretization.of(
            self.model, POINTS, t, flat(o.times), flat(o.values), flat(o.seen), who, size, exact, self.loss
        )

    def fixed(self) -> Array | None:
        """Times that are mesh points, (M, n)."""
        return None if self.switches is None else np.tile(self.switches, (self.S, 1))

    def start(self, φ: Array) -> tuple[Discretization, State]:
        """The first discretisation, and where the iterations start."""
        o, (S, E, n, m) = self.observed, self.observed.values.shape
        M, V, q = S * E, self.model.V, self.model.q
        times, values, seen = (x.reshape(M, *x.shape[2:]) for x in (o.times, o.values, o.seen))
        t = first_mesh(self.span.reshape(M, 2), times, seen.any(-1), self.fixed())
        first = self._first_values(t, φ)
        columns = through(t, times, values, seen, np.zeros((M, m)))
        τ = time_scales(t, columns, seen.any(1))
        size = np.repeat(self.size, E, axis=0)
        y = np.repeat(np.where(np.isfinite(first), first, 0.0)[:, None, :], t.shape[1], axis=1)
        jumped = np.concatenate([self.jumped(t[e::E], φ, e)[:, None] for e in range(E)], axis=1).reshape(
            M, t.shape[1], V
        )
        if self.model.observe is None:
            y = np.where(seen.any(1)[:, None], self._back(columns) - jumped, y)
        if self.guess is not None:
            guess = np.stack([np.broadcast_to(np.asarray(self.guess(x), float), (len(x), V)) for x in t])
            y = np.where(np.isfinite(guess), guess - jumped, y)
        z = np.zeros((M, t.shape[1] - 1, V, POINTS + q))
        z[..., 0] = y[:, :-1] / size[:, None]
        z[..., 1] = np.diff(y, axis=1) / np.diff(t)[..., None] / size[:, None]
        d = self.discretization(t)
        p = φ.shape[1]
        noise = np.ones((M, n, m))
        if o.noise is not None:
            rough = noise_of_differences(times, values, seen).reshape(S, E, m)
            rough = median(np.swapaxes(rough, 1, 2).reshape(S * m, E)).reshape(S, m)
            spread = sizes_of(values.reshape(S, E * n, m), seen.reshape(S, E * n, m))
            rough = np.where(np.isfinite(rough), rough, 0.2 * np.where(np.isfinite(spread), spread, 1.0))
            rough = np.clip(rough, 1e-4 * np.nan_to_num(spread, nan=1.0), None)
            given = o.noise.reshape(M, n, m)
            noise = np.where(np.isnan(given), np.repeat(rough, E, axis=0)[:, None], given)
        lower, upper = self.model.parameters.bounds()
        state = State(
            z=z, φ=φ.copy(), noise=noise, level=np.zeros(S, int), covariance=np.full((S, p, p), np.nan),
            held=np.zeros((S, p), bool), determined=np.ones(S, bool), converged=np.zeros(S, bool),
            failed=~o.seen.any((1, 2, 3)), steps=np.zeros(S, int), costs=np.full((S, 4), np.inf),
            first=φ.copy(), largest=np.abs(φ), equation_size=np.zeros((M, 0)), τ=τ,
            lower=np.tile(lower, (S, 1)), upper=np.tile(upper, (S, 1)),
        )  # fmt: skip
        return d, state

    def refuse_coupling(self, φ: Array) -> None:
        """
        Raises:
            ArgumentError: if a callback at one time depends on y at another.
        """
        d, state = self.start(φ)
        d.refuse_coupling(state.z, np.repeat(φ, self.E, axis=0))

    def jumped(self, times: Array, φ: Array, experiment: int) -> Array:
        """Sums of the jumps of y of an experiment at times (n_sets, n) for φ (n_sets, p): (n_sets, n, V)."""
        if self.model.jump_times is None:
            return np.zeros((*times.shape, self.model.V))
        added, _ = self.model.jumped(φ, np.full(len(φ), experiment))
        return (times[..., None] > self.model.jump_times[experiment]).astype(float) @ added

    def _first_values(self, t: Array, φ: Array) -> Array:
        """y at the first time as far as it is known at φ, (M, V), NaN elsewhere."""
        S, E, V, _ = self.known.values.shape
        values = np.where(self.known.weights > 0, self.known.values, np.nan).reshape(S * E, V, -1)
        if self.model.initial is not None:
            given, _ = self.model.initial_values(t[:, :1], np.repeat(φ, E, axis=0), np.tile(np.arange(E), S))
            values = np.where(np.isfinite(given), given, values)
        return values[..., 0]

    def _back(self, columns: Array) -> Array:
        """Transformed data as values of the variables."""
        kinds = enumerate(self.observed.transforms)
        each = [columns[..., j] if k is None else TRANSFORMS[k][1](columns[..., j]) for j, k in kinds]
        return np.stack(each, axis=-1)


def _known(initial: Any, S: int, E: int, V: int, order: int) -> Initial:
    """Initial values given as numbers, (S, E, V, order), NaN where free, and their inverse standard deviations."""
    values, deviations = initial if isinstance(initial, tuple) and len(initial) == 2 else (initial, 0.0)
    each = values if isinstance(values, list) and np.ndim(values[0]) > 0 else [values] * E
    if len(each) != E:
        raise ShapeError(f"initial has {len(each)} experiments, data {E}.")
    sd = np.asarray(deviations, float)
    if (sd < 0).any():
        raise ArgumentError("initial=(values, deviations): deviations must not be negative; 0 is exact.")
    shape = (S, E, V, order)
    known = np.full(shape, np.nan)
    for e, own in enumerate(each):
        known[:, e] = _states(np.asarray(own, float), V, order, np.nan).reshape(-1, V, order)
    sd = np.broadcast_to(_states(sd, V, order, 0.0) if sd.ndim else sd, shape)
    with np.errstate(divide="ignore"):
        return Initial(known, np.where(np.isfinite(known), 1 / sd, 0.0))


def _check_initial(initial: Any) -> None:
    """
    Raises:
        ArgumentError: unless initial values are numbers, alone or with deviations, a function or None.
        ShapeError: for one number, which says of no variable that it is its value.
    """
    if initial is None or callable(initial):
        return
    parts = initial if isinstance(initial, tuple) and len(initial) == 2 else (initial,)
    if not all(_are_numbers(x) for x in parts):
        raise ArgumentError(
            f"initial must be numbers, (numbers, deviations) or a function of the parameters; got {initial!r}. A "
            "steady state at the first time is steady=True; experiments have a list, (V,) for each in their order."
        )
    if np.ndim(parts[0]) == 0:
        raise ShapeError(f"initial must have shape (V,) or (V, order); got the number {initial!r}.")


def _are_numbers(x: Any) -> bool:
    """True if each array of a list, or x itself, can be one of floats."""
    try:
        for part in x if isinstance(x, list) else [x]:
            np.asarray(part, float)
    except (TypeError, ValueError):
        return False
    return True


def _states(x: Array, V: int, order: int, missing: float) -> Array:
    """Initial values (..., V) or (..., V, order) as (..., V, order)."""
    if x.shape[-2:] == (V, order) and (order > 1 or x.shape[-1] != V or x.ndim > 2):
        return x
    if x.shape[-1:] != (V,):
        raise ShapeError(f"initial must have shape ({V},) or ({V}, {order}); got {x.shape}.")
    return np.concatenate([x[..., None], np.full((*x.shape, order - 1), missing)], -1)


def _variables(variables: Any, observe: Any, m: int, initial: Any, scale: Any, order: int) -> int:
    """How many there are."""
    if variables is not None:
        V = variables if isinstance(variables, int) else len(variables)
        if observe is None and m != V:
            raise ShapeError(
                f"data has {m} columns for {V} variables; columns of variables that nobody observed are NaN."
            )
        return V
    if observe is None:
        return m
    if initial is not None and not callable(initial):
        values = initial[0] if isinstance(initial, tuple) else initial
        shape = np.shape(values[0] if isinstance(values, list) and np.ndim(values[0]) else values)
        return int(shape[-1] if order == 1 or len(shape) == 1 else shape[-2])
    if scale is not None:
        return int(np.shape(scale)[-1])
    raise ArgumentError("variables: how many (or their names) must be given where observe= is.")


def _switches(switches: Any, several: bool, E: int, name: str = "switches") -> Array | None:
    """(E, n), NaN where there are fewer."""
    if switches is None:
        return None
    each = list(switches) if several and np.ndim(switches[0]) else [switches] * E
    rows = [np.atleast_1d(np.asarray(x, float)) for x in each]
    if len(rows) != E:
        raise ShapeError(f"{name} has {len(rows)} experiments, data {E}.")
    marks = np.full((E, max(len(x) for x in rows)), np.nan)
    for e, x in enumerate(rows):
        marks[e, : len(x)] = x
    return marks


def _jumps(jumps: Any, several: bool, E: int, V: int, span: Array) -> tuple[Array, Any]:
    """Times (E, n), NaN where there are fewer, and changes (E, n, V) or a function."""
    if not isinstance(jumps, tuple) or len(jumps) != 2:
        raise ArgumentError("jumps must be (times, changes): numbers (n, V), or a function of the parameters.")
    times, changes = jumps
    at = _switches(times, several, E, "jumps, their times,")
    assert at is not None
    if (at <= span[:, :, :1].max(0)).any():
        raise ArgumentError(
            "jumps must lie behind the first time: what is added there belongs into initial=; t0= sets an earlier one."
        )
    if callable(changes):
        return at, changes
    each = list(changes) if several and np.ndim(changes[0]) > 1 else [changes] * E
    added = np.zeros((*at.shape, V))
    for e, x in enumerate(each):
        n = int(np.isfinite(at[e]).sum())
        try:
            added[e, :n] = np.broadcast_to(np.asarray(x, float), (n, V))
        except ValueError:
            raise ShapeError(f"jumps must add ({n}, {V}) numbers, or ({V},); got {np.shape(x)}.") from None
    return at, added


def _sizes(observed: Observed, observe: Any, known: Array, scale: Any, V: int) -> Array:
    """The size of each variable, (S, V): as given, of the data, of initial values, or that of most others."""
    S, E, n, m = observed.values.shape
    if scale is not None:
        size = np.asarray(scale, float)
        if size.shape not in ((), (V,), (S, V)) or not ((size > 0) & np.isfinite(size)).all():
            raise ArgumentError(f"scale must be {V} positive sizes, one for each variable; got {scale!r}.")
        return np.array(np.broadcast_to(size, (S, V)))
    first = np.nan_to_num(np.abs(known[..., 0])).max(1)
    size = np.where(first > 0, first, np.nan)
    if observe is None:
        raw = np.where(observed.seen, observed.raw, 0.0).reshape(S, E * n, m)
        of_data = sizes_of(raw, observed.seen.reshape(S, E * n, m))
        size = np.where(np.isfinite(of_data), of_data, size)
    some = np.isfinite(size)
    logs = np.log(np.where(some, size, 1.0)).sum(1) / np.maximum(some.sum(1), 1)
    return np.where(some, size, np.exp(logs)[:, None])
