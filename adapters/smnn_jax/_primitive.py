"""Functions as primitives of JAX, so that their derivatives are asked for wherever a program is taken apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

Array = Any

__all__ = ["Traced"]


class Traced:
    """A function of arrays with a derivative of its own, as a primitive.

    Unlike `jax.custom_jvp`, whose rule is lost where JAX evaluates a program in part (the body of a scan that was
    differentiated in reverse), a primitive can be differentiated again anywhere.

    All operands and results have batch axes in front, which `vmap` adds to.
    """

    def __init__(self, name: str, function: Callable[..., list[Array]], static: tuple[str, ...]):
        self.function = jax.jit(function, static_argnames=static)
        self.primitive = primitive = Primitive(name)
        primitive.multiple_results = True
        primitive.def_impl(lambda *operands, call, **options: self.function(*operands, **options))
        # the program is traced where it is bound, in the mesh that is current there
        primitive.def_abstract_eval(lambda *types, call, **options: call.out_avals)
        mlir.register_lowering(
            primitive, mlir.lower_fun(lambda *operands, call, **options: jaxpr_as_fun(call)(*operands))
        )
        batching.primitive_batchers[primitive] = self._batched
        ad.primitive_jvps[primitive] = self._jvp

    def __call__(self, *operands: Array, **options: Any) -> list[Array]:
        call = jax.make_jaxpr(partial(self.function, **options))(*operands)
        return self.primitive.bind(*operands, call=call, **options)

    def _batched(
        self, operands: Sequence[Array], axes: Sequence[int | None], call: Any, **options: Any
    ) -> tuple[list[Array], list[int]]:
        del call
        moved = [x[None] if i is None else jnp.moveaxis(x, i, 0) for x, i in zip(operands, axes, strict=True)]
        results = self(*moved, **options)
        return results, [0] * len(results)

    def _jvp(
        self, primals: Sequence[Array], tangents: Sequence[Array], call: Any, **options: Any
    ) -> tuple[list[Array], list[Array]]:
        """Results and their tangents; those of operands that do not move are instances of `ad.Zero`."""
        raise NotImplementedError
