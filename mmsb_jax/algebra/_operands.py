"""What folds, products and paths accept: arrays of the right dtype and shape, and no others."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from mmsb_jax._errors import StructureError

if TYPE_CHECKING:
    from mmsb_jax.algebra._semiring import Semiring


def as_array(semiring: "Semiring", value: Any, name: str, dtype: Any = None) -> Array:
    """``value`` as an array on which ``semiring`` is defined, of ``dtype`` where one is given."""
    array = uncast(value, name)
    semiring.check_dtype(array.dtype)
    if dtype is not None and array.dtype != dtype:
        raise StructureError(
            f"{name} is {array.dtype.name}, the other operand is {np.dtype(dtype).name}; cast one "
            f"of them (astype): {semiring.name} mixes no dtypes"
        )
    return array


def uncast(value: Any, name: str) -> Array:
    """``value`` as a JAX array of its own dtype."""
    if isinstance(value, jax.Array):
        return value
    given = np.asarray(value)
    if not isinstance(value, (np.ndarray, np.generic)):
        return jnp.asarray(value)
    if jax.dtypes.canonicalize_dtype(given.dtype) != given.dtype:
        raise StructureError(
            f"{name} is {given.dtype.name}, which JAX has only with jax_enable_x64; nothing is "
            f"cast in silence: give {name} as {jax.dtypes.canonicalize_dtype(given.dtype).name}"
        )
    return jnp.asarray(given)


def axis_of(xs: Array, axis: int) -> int:
    """``axis``, counted from the first one."""
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
