"""Functions that the standard leaves out, for any namespace: checks, broadcasting and sums over broadcast axes."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import array_api_compat as compat
import array_api_compat.numpy as compat_numpy
import numpy as np

from . import _cupy
from ._errors import ArgumentError, DeviceError, DTypeError, NamespaceError, ShapeError

Array = Any
Namespace = Any
Shape = tuple[int, ...]

NUMPY_DTYPES = np.dtype("float32"), np.dtype("float64")


def is_numpy(x: Array) -> bool:
    """True if x is a plain NumPy array: on the CPU, its values at hand."""
    return type(x) is np.ndarray


@lru_cache(maxsize=256)
def _numpy_number(value: float, dtype: np.dtype[Any]) -> np.ndarray:
    result = np.asarray(value, dtype=dtype)
    result.flags.writeable = False  # it serves many problems
    return result


def number(xp: Namespace, value: float, dtype: Any, device: Any) -> Array:
    """A number as an array without axes; of NumPy and CuPy, one that is made once, as it takes longer than using it."""
    if xp is compat_numpy:
        return _numpy_number(float(value), dtype)
    if compat.is_cupy_namespace(xp):
        return _cupy.constant(xp, float(value), dtype, device)
    return xp.asarray(float(value), dtype=dtype, device=device)


def common_namespace(arrays: Mapping[str, Array]) -> Namespace:
    """The array namespace that all arguments share; they must share dtype (float32 or float64) and device too.

    Raises:
        NamespaceError, DTypeError, DeviceError: naming the argument that differs and what to change.
    """
    first = next(iter(arrays))
    if all(is_numpy(x) and x.dtype in NUMPY_DTYPES and x.dtype == arrays[first].dtype for x in arrays.values()):
        return compat_numpy  # what follows finds the same, and takes longer than a small solve
    for name, x in arrays.items():
        if not compat.is_array_api_obj(x):
            raise NamespaceError(
                f"{name} must be an array, got {type(x).__name__}: convert it to an array of the library of the "
                "other arguments (NumPy, CuPy, PyTorch, JAX, ...)."
            )
        if isinstance(x, np.ma.MaskedArray):
            raise NamespaceError(
                f"{name} is a masked array, and masks would be ignored: pass {name}.filled(0) and, for data that are "
                "missing, weights that are zero there (weights.equation, weights.initial)."
            )
    namespaces = {name: compat.array_namespace(x) for name, x in arrays.items()}
    xp = namespaces[first]
    for name, x in arrays.items():
        if namespaces[name] is not xp:
            raise NamespaceError(
                f"{name} is an array of {_library(namespaces[name])}, {first} one of {_library(xp)}: all arguments "
                "must come from one array library."
            )
        if x.dtype not in (xp.float32, xp.float64):
            convert = f"{name}.to(torch.float64)" if compat.is_torch_namespace(xp) else f"{name}.astype('float64')"
            raise DTypeError(
                f"{name} has dtype {x.dtype}; expected float32 or float64 (native byte order): convert it, for example "
                f"by {convert}."
            )
        if x.dtype != arrays[first].dtype:
            raise DTypeError(
                f"{name} has dtype {x.dtype}, {first} has {arrays[first].dtype}: all arguments must have one dtype."
            )
    devices = {name: compat.device(x) for name, x in arrays.items() if not is_tracer(x)}
    for name, device in devices.items():
        reference = next(iter(devices))
        if device != devices[reference] and not _is_sharded(arrays[name], arrays[reference]):
            raise DeviceError(
                f"{name} is on {device}, {reference} on {devices[reference]}: move all arguments to one device."
            )
    return xp


def _library(xp: Namespace) -> str:
    return str(xp.__name__).removeprefix("array_api_compat.")


def _is_sharded(*arrays: Array) -> bool:
    """True if a JAX array lies on several devices: placing such arrays is XLA's business."""
    return any(compat.is_jax_array(x) and len(x.devices()) > 1 for x in arrays)


def as_numpy(x: Array) -> np.ndarray:
    """The values of an array of any library, in the memory of the host."""
    x = x.detach().cpu() if hasattr(x, "detach") else x
    return np.asarray(x.get() if hasattr(x, "get") else x)


def owned(x: Array) -> Array:
    """A copy, that nobody else writes to; it takes no more memory where x repeats itself (strides of 0). Of tensors, it
    is differentiable."""
    if not compat.is_array_api_obj(x) or compat.is_jax_array(x) or isinstance(x, np.generic):
        return x  # immutable, or a number
    xp, is_torch = compat.array_namespace(x), compat.is_torch_array(x)
    strides = x.stride() if is_torch else getattr(x, "strides", (1,) * x.ndim)
    once = x[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in strides)] if 0 in strides else x
    return xp.broadcast_to(once.clone() if is_torch else xp.asarray(once, copy=True), x.shape)


def is_tracer(x: Array) -> bool:
    """True if x stands for values that are not there yet (a JAX tracer, a torch fake tensor or compilation)."""
    if is_numpy(x):
        return False
    if compat.is_torch_array(x):
        torch = sys.modules["torch"]
        return torch.compiler.is_compiling() or type(x) not in (torch.Tensor, torch.nn.Parameter)
    return compat.is_jax_array(x) and isinstance(x, sys.modules["jax"].core.Tracer)


def without_derivatives(function: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a function that automatic differentiation must not enter: it would find NaN there.

    Raises:
        ArgumentError: where PyTorch or JAX asks for a derivative, which their adapters give.
    """
    for x in arguments:
        if compat.is_torch_array(x) and x.requires_grad and sys.modules["torch"].is_grad_enabled():
            raise ArgumentError(_NOT_DIFFERENTIABLE.format(function, "smnn_torch", "the argument's detach()"))
    return tuple(_jax_constant(function)(x) if compat.is_jax_array(x) else x for x in arguments)


_NOT_DIFFERENTIABLE = (
    "smnn_core.{0} cannot be differentiated by PyTorch or JAX: call the function of {1}, which has derivatives of any "
    "order, or pass {2} where none are wanted."
)


@cache
def _jax_constant(function: str) -> Any:
    """The identity, whose derivative is an error."""
    jax = sys.modules["jax"]

    def jvp(primals: Any, tangents: Any) -> Any:
        raise ArgumentError(_NOT_DIFFERENTIABLE.format(function, "smnn_jax", "jax.lax.stop_gradient of the arguments"))

    constant = jax.custom_jvp(lambda x: x)
    constant.defjvp(jvp)
    return constant


def has_zero(xp: Namespace, x: Array) -> bool:
    """True if an entry is zero, where values can be read."""
    if is_numpy(x):
        return not np.logical_and.reduce(x, axis=None)
    return bool(xp.any(x == 0))


def device_of(x: Array) -> Any:
    """The device of new arrays that meet x; None leaves that to the library (x is of JAX, which knows)."""
    return None if compat.is_jax_array(x) else compat.device(x)


def can_look(x: Array) -> bool:
    """True if the values of x can be read without tracing errors and without synchronising with a device."""
    if is_numpy(x):
        return True
    if is_tracer(x) or compat.is_cupy_array(x):
        return False
    if compat.is_torch_array(x):
        return x.device.type == "cpu" and not _is_mapped(x)
    if compat.is_jax_array(x):
        return all(device.platform == "cpu" for device in x.devices())
    return True


def _is_mapped(x: Array) -> bool:
    """True if a tensor has values for each member of `torch.func.vmap`, possibly inside other transforms."""
    functorch = sys.modules["torch"]._C._functorch
    while functorch.is_functorch_wrapped_tensor(x):
        if functorch.is_batchedtensor(x):
            return True
        x = functorch.get_unwrapped(x)
    return False


def broadcast_shapes(shapes: Mapping[str, Shape]) -> Shape:
    """The common batch shape of named shapes.

    Raises:
        ShapeError: naming the first argument that does not broadcast.
    """
    result: Shape = ()
    for name, shape in shapes.items():
        if not shape or shape == result:
            continue
        rank = max(len(result), len(shape))
        a, b = ((1,) * (rank - len(s)) + s for s in (result, shape))
        if any(i != j and 1 not in (i, j) for i, j in zip(a, b, strict=True)):
            others = ", ".join(f"{k} {tuple(v)}" for k, v in shapes.items() if k != name)
            raise ShapeError(
                f"the batch axes of {name}, {tuple(shape)}, do not broadcast with those of the other arguments "
                f"({others}): each axis must be equal or 1."
            )
        result = tuple(j if i == 1 else i for i, j in zip(a, b, strict=True))
    return result


def sum_to_shape(xp: Namespace, x: Array, shape: Shape) -> Array:
    """The adjoint of broadcasting from `shape`: sums x over the axes along which that shape was repeated."""
    extra = x.ndim - len(shape)
    repeated = tuple(range(extra)) + tuple(
        extra + i for i, size in enumerate(shape) if size == 1 and x.shape[extra + i] != 1
    )
    if repeated:
        x = xp.sum(x, axis=repeated, keepdims=True)
    return xp.reshape(x, shape) if tuple(x.shape) != tuple(shape) else x


def add(a: Array | None, b: Array | None) -> Array | None:
    """a + b; None is zero."""
    return a if b is None else b if a is None else a + b


def powers(xp: Namespace, s: Array, K: int) -> Array:
    """s^0 .. s^(K-1) along a new last axis, by multiplication (exact signs for negative s)."""
    result = [xp.ones_like(s)]
    for _ in range(K - 1):
        result.append(result[-1] * s)
    return xp.stack(result, axis=-1)


def power_derivatives(xp: Namespace, s: Array, K: int) -> Array:
    """d/ds of `powers`: o s^(o-1) for o = 0..K-1 along a new last axis."""
    if K == 1:
        return xp.zeros_like(s)[..., None]
    o = xp.arange(1, K, dtype=s.dtype, device=device_of(s))
    return xp.concat([xp.zeros_like(s)[..., None], o * powers(xp, s, K - 1)], axis=-1)


def concat(xp: Namespace, arrays: Sequence[Array], axis: int) -> Array:
    """`xp.concat`, which PyTorch's older vmap (`is_grads_batched`) knows by its other name only."""
    return getattr(xp, "cat", xp.concat)(arrays, axis=axis)


def pad_to(xp: Namespace, x: Array, core: Shape) -> Array:
    """x of shape (..., T_init, V, R_init) with zeros behind, to (..., *core)."""
    lead, (T_init, V, R_init), (T, _, K) = x.shape[:-3], x.shape[-3:], core

    def zeros(*shape: int) -> Array:
        return xp.zeros((*lead, *shape), dtype=x.dtype, device=device_of(x))

    return concat(xp, [concat(xp, [x, zeros(T_init, V, K - R_init)], -1), zeros(T - T_init, V, K)], -3)


def size(shape: Shape) -> int:
    """The number of elements of an array of that shape."""
    return math.prod(shape)
