"""Libraries of terms for `discover`: functions of the variables, with their derivatives.

A library maps z, (..., D), to the values of its terms, (..., terms), and their derivatives, (..., terms, D). D is the
number of variables, times two where the right-hand side may contain the first derivatives as well.

    smnn.polynomials(2) + smnn.fourier(1)          both
    smnn.polynomials(1) * smnn.fourier(1)          all products of a term of one with a term of the other
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .._arrays import Array, Namespace, as_numpy, common_namespace, device_of
from .._errors import ArgumentError, ShapeError

__all__ = ["Library", "fourier", "functions", "polynomials"]

Function = Callable[[Array], Array]


class Library(ABC):
    """Functions of D variables, with their derivatives; add libraries to join them, multiply them for all products."""

    @abstractmethod
    def names(self, variables: Sequence[str]) -> list[str]:
        """The name of each term, for variables of these names."""

    @abstractmethod
    def evaluate(self, z: Array) -> tuple[Array, Array]:
        """The values (..., terms) and the derivatives (..., terms, D) at z, (..., D)."""

    def exponents(self, D: int) -> np.ndarray | None:
        """(terms, D), integers, where all terms are monomials; None otherwise."""
        return None

    def __add__(self, other: Library) -> Library:
        return Sum((self, other))

    def __mul__(self, other: Library) -> Library:
        return Product((self, other))

    def check(self, z: Array, variables: Sequence[str] | None = None) -> None:
        """Compares shapes with what they should be, and derivatives with differences, at the points z, (points, D).

        Args:
            variables: their names in errors, z0, z1, ... if not given.

        Raises:
            ShapeError: if values or derivatives do not have the shapes above.
            ArgumentError: naming the term whose derivative is wrong, or whose value is not finite, and terms whose
                values are the same at all points.
        """
        D = z.shape[-1]
        names = self.names([f"z{i}" for i in range(D)] if variables is None else variables)
        values, derivatives = (as_numpy(x) for x in self.evaluate(z))
        for x, expected in ((values, (len(names),)), (derivatives, (len(names), D))):
            if x.shape[1:] != expected or len(x) != z.shape[0]:
                raise ShapeError(
                    f"the library must return {(z.shape[0], *expected)} for {tuple(z.shape)}; got {x.shape}."
                )
        bad = ~np.isfinite(values).all(0) | ~np.isfinite(derivatives).all((0, 2))
        if bad.any():
            raise ArgumentError(f"term {names[int(np.argmax(bad))]!r} is not finite at values that the data take.")
        size = np.abs(values).max(0)
        for j in range(1, len(names)):
            same = np.abs(values[:, :j] - values[:, j : j + 1]).max(0) <= 1e-12 * size[j]
            if same.any():
                raise ArgumentError(
                    f"terms {names[int(np.argmax(same))]!r} and {names[j]!r} have the same values at all data, which "
                    "cannot say which of them it is: leave one out of the library."
                )
        scale = np.abs(as_numpy(z)).max(0)
        scale = np.where(scale > 0, scale, 1.0)
        step = 1e-3 if values.dtype == np.float32 else 1e-5
        for i in range(D):
            h = np.zeros(D, dtype=values.dtype)
            h[i] = step * scale[i]
            shift = common_namespace({"z": z}).asarray(h, dtype=z.dtype, device=device_of(z))
            up, down = (as_numpy(self.evaluate(z + sign * shift)[0]) for sign in (1, -1))
            difference = (up - down) / (2 * h[i])
            size = np.abs(difference).max(0) + np.abs(values).max(0) / scale[i] + np.finfo(values.dtype).tiny
            wrong = np.abs(difference - derivatives[..., i]).max(0) > 0.03 * size
            if wrong.any():
                raise ArgumentError(
                    f"the derivative of term {names[int(np.argmax(wrong))]!r} with respect to variable {i} differs "
                    "from a difference quotient of its values by more than 3 %: check the derivative that you gave."
                )


@dataclass(frozen=True)
class Polynomials(Library):
    """Made by `polynomials`."""

    degree: int
    lowest: int

    def exponents(self, D: int) -> np.ndarray:
        """By degree, then with the first variables first: 1; x, y; x^2, xy, y^2; ..."""
        return np.array([_exponents_of(e, D) for e in self._factors(D) if len(e) >= self.lowest]).reshape(-1, D)

    def names(self, variables: Sequence[str]) -> list[str]:
        return [_monomial(e, variables) for e in self.exponents(len(variables))]

    def _factors(self, D: int) -> list[tuple[int, ...]]:
        return [e for d in range(self.degree + 1) for e in itertools.combinations_with_replacement(range(D), d)]

    def evaluate(self, z: Array) -> tuple[Array, Array]:
        """Each monomial is one of a lower degree times a variable; a derivative is a number times such a one."""
        xp = common_namespace({"z": z})
        D = z.shape[-1]
        factors = self._factors(D)
        index = {e: k for k, e in enumerate(factors)}
        columns: list[Array] = []
        for e in factors:
            columns.append(columns[index[e[:-1]]] * z[..., e[-1]] if e else xp.ones_like(z[..., 0]))
        zero = xp.zeros_like(z[..., 0])

        def derivative(e: tuple[int, ...], i: int) -> Array:
            if i not in e:
                return zero
            at = e.index(i)
            return e.count(i) * columns[index[e[:at] + e[at + 1 :]]]

        kept = [e for e in factors if len(e) >= self.lowest]
        derivatives = [xp.stack([derivative(e, i) for i in range(D)], axis=-1) for e in kept]
        return xp.stack([columns[index[e]] for e in kept], axis=-1), xp.stack(derivatives, axis=-2)


def _exponents_of(factors: tuple[int, ...], D: int) -> list[int]:
    return [factors.count(i) for i in range(D)]


def _monomial(exponents: Sequence[int], variables: Sequence[str]) -> str:
    parts = [name if e == 1 else f"{name}^{e}" for name, e in zip(variables, exponents, strict=True) if e]
    return " ".join(parts) or "1"


def polynomials(degree: int, lowest: int = 0) -> Library:
    """All monomials of the variables of a degree between `lowest` and `degree`: (D + degree)! / (D! degree!) of them.

    >>> smnn.polynomials(2).names(["x", "y"])
    ['1', 'x', 'y', 'x^2', 'x y', 'y^2']

    Raises:
        ArgumentError: unless they are integers with 0 <= lowest <= degree.
    """
    if degree != int(degree) or lowest != int(lowest) or not 0 <= lowest <= degree:
        raise ArgumentError(f"polynomials needs integers 0 <= lowest <= degree; got degree {degree}, lowest {lowest}.")
    return Polynomials(int(degree), int(lowest))


@dataclass(frozen=True)
class Fourier(Library):
    """Made by `fourier`."""

    harmonics: int
    frequency: float

    def names(self, variables: Sequence[str]) -> list[str]:
        factors = [f"{k * self.frequency:g} " if k * self.frequency != 1 else "" for k in self._harmonics]
        return [f"{f}({factor}{name})" for name in variables for factor in factors for f in ("sin", "cos")]

    @property
    def _harmonics(self) -> range:
        return range(1, self.harmonics + 1)

    def evaluate(self, z: Array) -> tuple[Array, Array]:
        xp = common_namespace({"z": z})
        values, derivatives = [], []
        zero = xp.zeros_like(z[..., 0])
        for i in range(z.shape[-1]):
            for w in (k * self.frequency for k in self._harmonics):
                sin, cos = xp.sin(w * z[..., i]), xp.cos(w * z[..., i])
                for value, slope in ((sin, w * cos), (cos, -w * sin)):
                    values.append(value)
                    derivatives.append(xp.stack([slope if j == i else zero for j in range(z.shape[-1])], axis=-1))
        return xp.stack(values, axis=-1), xp.stack(derivatives, axis=-2)


def fourier(harmonics: int, frequency: float = 1.0) -> Library:
    """sin(k f x) and cos(k f x) of every variable x, for k = 1..harmonics and the angular frequency f.

    >>> smnn.fourier(1).names(["x", "y"])
    ['sin(x)', 'cos(x)', 'sin(y)', 'cos(y)']

    Raises:
        ArgumentError: unless harmonics is an integer from 1 on and the frequency is positive.
    """
    if harmonics != int(harmonics) or harmonics < 1 or not frequency > 0:
        raise ArgumentError(
            f"fourier needs an integer harmonics >= 1 and frequency > 0; got {harmonics} and {frequency}."
        )
    return Fourier(int(harmonics), float(frequency))


@dataclass(frozen=True)
class Functions(Library):
    """Made by `functions`."""

    terms: tuple[tuple[str, Function, Function], ...]

    def names(self, variables: Sequence[str]) -> list[str]:
        return [name for name, _, _ in self.terms]

    def evaluate(self, z: Array) -> tuple[Array, Array]:
        xp = common_namespace({"z": z})
        shape = tuple(z.shape)
        values: list[Array] = []
        derivatives: list[Array] = []
        for name, f, df in self.terms:
            for function, expected, results in ((f, shape[:-1], values), (df, shape, derivatives)):
                x = function(z)
                if tuple(x.shape) != expected:
                    what = "function" if function is f else "derivative"
                    raise ShapeError(
                        f"the {what} of term {name!r} must return shape {expected} for z of shape {shape} (time and "
                        f"batch axes first, variables last); got {tuple(x.shape)}."
                    )
                results.append(x)
        return xp.stack(values, axis=-1), xp.stack(derivatives, axis=-2)


def functions(terms: Mapping[str, tuple[Function, Function]]) -> Library:
    """Functions of your own: name -> (function, derivative), of z, (..., D), returning (...) and (..., D).

    >>> saturation = smnn.functions({
    ...     "x/(1 + x)": (
    ...         lambda z: z[..., 0] / (1 + z[..., 0]),
    ...         lambda z: np.stack([1 / (1 + z[..., 0]) ** 2, 0 * z[..., 1]], axis=-1),
    ...     )
    ... })

    `discover` compares the derivatives with difference quotients and raises ArgumentError where they differ.

    Raises:
        TypeError: for a term that is no pair of functions.
        ArgumentError: where there is no term.
    """
    if not isinstance(terms, Mapping):
        raise TypeError(f"terms must map names to pairs (function, derivative); got {type(terms).__name__}.")
    if not terms:
        raise ArgumentError("terms is empty: a library has at least one.")
    for name, pair in terms.items():
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(map(callable, pair)):
            raise TypeError(f"in terms, {name!r} must be a pair (function, derivative) of functions; got {pair!r}.")
    return Functions(tuple((name, *pair) for name, pair in terms.items()))


@dataclass(frozen=True)
class Sum(Library):
    """The terms of several libraries; those of the same name once."""

    parts: tuple[Library, ...]

    def names(self, variables: Sequence[str]) -> list[str]:
        names = [name for part in self.parts for name in part.names(variables)]
        return [names[k] for k in _first(names)]

    def exponents(self, D: int) -> np.ndarray | None:
        known = [e for part in self.parts if (e := part.exponents(D)) is not None]
        if len(known) < len(self.parts):
            return None
        return np.concatenate(known)[self._kept(D)]

    def evaluate(self, z: Array) -> tuple[Array, Array]:
        xp = common_namespace({"z": z})
        values, derivatives = zip(*(part.evaluate(z) for part in self.parts), strict=True)
        kept = self._kept(z.shape[-1])
        return _take(xp, xp.concat(values, axis=-1), xp.concat(derivatives, axis=-2), kept)

    def _kept(self, D: int) -> list[int]:
        return _first([name for part in self.parts for name in part.names(_placeholders(D))])


@dataclass(frozen=True)
class Product(Library):
    """All products of a term of the first library with one of the second; those of the same factors once."""

    parts: tuple[Library, Library]

    def _all_names(self, variables: Sequence[str]) -> list[str]:
        D = len(variables)
        a, b = (part.exponents(D) for part in self.parts)
        if a is not None and b is not None:
            return [_monomial(i + j, variables) for i in a for j in b]
        names = itertools.product(*(part.names(variables) for part in self.parts))
        pairs = [tuple(x for x in pair if x != "1") for pair in names]
        first: dict[tuple[str, ...], tuple[str, ...]] = {}  # of "x y" and "y x" the one that comes first names both
        pairs = [first.setdefault(tuple(sorted(pair)), pair) for pair in pairs]
        return [f"{pair[0]}^2" if len(set(pair)) < len(pair) else " ".join(pair) or "1" for pair in pairs]

    def names(self, variables: Sequence[str]) -> list[str]:
        names = self._all_names(variables)
        return [names[k] for k in _first(names)]

    def exponents(self, D: int) -> np.ndarray | None:
        a, b = (part.exponents(D) for part in self.parts)
        if a is None or b is None:
            return None
        return (a[:, None] + b).reshape(-1, D)[self._kept(D)]

    def evaluate(self, z: Array) -> tuple[Array, Array]:
        xp = common_namespace({"z": z})
        (a, da), (b, db) = (part.evaluate(z) for part in self.parts)
        values = a[..., :, None] * b[..., None, :]
        derivatives = da[..., :, None, :] * b[..., None, :, None] + a[..., :, None, None] * db[..., None, :, :]
        lead = tuple(z.shape[:-1])
        values, derivatives = xp.reshape(values, (*lead, -1)), xp.reshape(derivatives, (*lead, -1, z.shape[-1]))
        return _take(xp, values, derivatives, self._kept(z.shape[-1]))

    def _kept(self, D: int) -> list[int]:
        return _first(self._all_names(_placeholders(D)))


def _placeholders(D: int) -> list[str]:
    return [f"z{i}" for i in range(D)]


def _first(names: Sequence[str]) -> list[int]:
    """The positions at which a name appears for the first time."""
    return [k for k, name in enumerate(names) if name not in names[:k]]


def _take(xp: Namespace, values: Array, derivatives: Array, kept: list[int]) -> tuple[Array, Array]:
    if len(kept) == values.shape[-1]:
        return values, derivatives
    index = xp.asarray(kept, device=device_of(values))
    return xp.take(values, index, axis=-1), xp.take(derivatives, index, axis=-2)
