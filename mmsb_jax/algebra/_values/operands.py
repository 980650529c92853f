"""What folds, products and paths accept: arrays of the right dtype and shape, and no others."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from mmsb_jax._base.errors import StructureError
from mmsb_jax.algebra._values.casting import check_held, described, fit, has_own_dtype, on_host
from mmsb_jax.algebra._values.forms import check_forms
from mmsb_jax.algebra._values.operations import Operations


def as_array(semiring: Operations, value: Any, name: str, dtype: Any = None) -> Array:
    """``value`` as an array on which ``semiring`` is defined, of ``dtype`` where one is given."""
    array = uncast(value, name)
    check_forms(semiring, semiring.check_dtype(array.dtype))
    if dtype is not None and array.dtype != dtype:
        raise StructureError(
            f"{name} is {array.dtype.name}, the other operand is {np.dtype(dtype).name}; cast one "
            f"of them (astype): {semiring.name} mixes no dtypes"
        )
    return array


def uncast(value: Any, name: str) -> Array:
    """``value`` as a JAX array of its own dtype; Python's numbers take JAX's default if it fits."""
    if isinstance(value, jax.Array):
        check_held(value.dtype, name)
        return value
    given = on_host(value, name)
    if has_own_dtype(value):
        check_held(given.dtype, name)
    return jnp.asarray(fit(given, jax.dtypes.canonicalize_dtype(given.dtype), name))


def whole(value: Any, name: str, remedy: str = "") -> int:
    """A number that is an integer and no bool, on the host."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    is_array = isinstance(value, (np.ndarray, np.generic, jax.Array))
    if not is_array or value.shape or not jnp.issubdtype(value.dtype, np.integer):
        raise StructureError(
            f"{name} is {described(value)}; one integer was expected{remedy and '. ' + remedy}"
        )
    return int(on_host(value, name))


def as_int32(value: Array) -> Array:
    """A traced integer, for which the ends of int32 are as far as it goes; a cast would wrap."""
    ends, all_ends = jnp.iinfo(np.int32), jnp.iinfo(value.dtype)
    low, high = max(ends.min, all_ends.min), min(ends.max, all_ends.max)
    return jnp.clip(value, np.array(low, value.dtype), np.array(high, value.dtype)).astype(np.int32)


def axis_of(xs: Array, axis: Any) -> int:
    """``axis``, counted from the first one."""
    axis = whole(axis, "axis")
    if not -xs.ndim <= axis < xs.ndim:
        raise StructureError(f"axis {axis} of an array of shape {xs.shape}: there is none")
    return axis % xs.ndim


def check_shape(value: Any, shape: tuple[int, ...], name: str) -> None:
    """Raise where ``value`` is not of this shape."""
    if tuple(value.shape) != tuple(shape):
        raise StructureError(f"{name} has shape {tuple(value.shape)}; {tuple(shape)} was expected")


def check_square(A: Any) -> int:
    """The number of rows and columns of a square matrix."""
    if len(A.shape) != 2 or A.shape[0] != A.shape[1]:
        raise StructureError(f"a matrix of shape {tuple(A.shape)}; a square one was expected")
    return A.shape[0]


def is_traced(*values: Any) -> bool:
    """Whether an array in these is a tracer: under jit, vmap or grad."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values))
