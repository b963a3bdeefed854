"""Why a system has no unique solution: the likelier causes, with the numbers at hand."""

from __future__ import annotations

import numpy as np

from ._problem import System

__all__ = ["likely_causes"]


def likely_causes(system: System, batch_index: tuple[int, ...]) -> list[str]:
    """Sentences, the likeliest cause first, about one member of a system whose values can be read."""
    member = _Member(system, batch_index)
    T, Q, V, K = system.n_steps, system.Q, system.V, system.K
    causes = []
    empty = ~(member.equations & (np.abs(member.c).max(axis=(-2, -1)) > 0))
    gone = np.nonzero(empty.any(axis=-1))[0]
    if gone.size:
        causes.append(
            f"{int(empty.sum())} of {T * Q} equation rows are empty, by a weight or coefficients of zero, the first at "
            f"time point {gone[0]}"
        )
    orders = [int(np.nonzero(present)[0].max(initial=0)) for present in member.present]
    given, constants = int(member.initial.sum()), sum(orders)
    if given < constants:
        causes.append(
            f"{given} initial values are given, and equations of order {', '.join(map(str, orders))} in "
            f"{V} variable{'s' * (V > 1)} leave {constants} constants open"
        )
    unknown = [v for v, present in enumerate(member.present) if not present.any()]
    if unknown:
        causes.append(f"no equation contains variable {unknown[0]}")
    if Q < V:
        causes.append(f"there are {Q} equations for {V} variables")
    broken = int((~member.smoothness).sum())
    if broken:
        causes.append(f"{broken} of {T - 1} steps have smoothness rows of weight zero, which cut the trajectory there")
    s, eps = float(np.abs(member.s).min()), float(np.finfo(member.c.dtype).eps)
    if not causes or s ** (K - 1) < eps:
        causes.append(
            f"the smallest step, {s:.3g}, to the power R = {K - 1} is {s ** (K - 1):.1e}, beside the precision "
            f"{eps:.0e} of {member.c.dtype}: tell time in a larger unit, or carry fewer orders"
        )
    return causes


class _Member:
    """One member of a batch, in NumPy arrays of full size."""

    def __init__(self, system: System, index: tuple[int, ...]) -> None:
        self.c, self.s, *weights = system.member(index).values()
        self.equations, self.initial, self.smoothness = (w != 0 for w in weights)
        self.present = ((self.c != 0) & self.equations[..., None, None]).any(axis=(0, 1))
        """(V, K): which derivatives of a variable stand in some equation"""
