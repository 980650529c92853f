"""The closure of a matrix, and its powers."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool

from mmsb_jax._base.arguments import MOST, show
from mmsb_jax._base.errors import GraphCycleError, StructureError
from mmsb_jax.algebra._matrix import dense
from mmsb_jax.algebra._matrix.sparse import SparseMatrix
from mmsb_jax.algebra._values.casting import check_held
from mmsb_jax.algebra._values.forms import check_closure_forms
from mmsb_jax.algebra._values.operands import as_array, check_square, is_traced, whole
from mmsb_jax.algebra._values.operations import Operations


def star(semiring: Operations, A: Any) -> Array:
    """`Semiring.star`."""
    A = _dense_square(semiring, A)
    if not A.shape[0]:
        return A
    closed, pivots, fine = _star(semiring, A)
    # Under a transformation the result is traced, also of a matrix that is not.
    if not is_traced(fine) and not bool(fine.all()):
        k = int(np.argmin(np.asarray(fine)))
        raise GraphCycleError(
            f"star in {semiring.name}: going round a cycle through node {k} never ends; once round "
            f"is {np.asarray(pivots)[k]}. Take that cycle out of the matrix"
        )
    return closed


@functools.partial(jax.jit, static_argnums=0)
def _star(semiring: Operations, A: Array) -> tuple[Array, Array, Bool[Array, " n"]]:
    """The closure; what going round each node was when its turn came; whether that has an end."""
    n = A.shape[0]

    def through(C: Array, k: Array) -> tuple[Array, tuple[Array, Array]]:
        """Paths whose inner nodes are at most k, from those whose inner nodes are below k."""
        column, row = C[:, k], C[k]
        pivot = row[k]
        around = jnp.broadcast_to(star_of(semiring, pivot), column.shape)
        there = semiring.multiply(column, around)
        detour = semiring.multiply(there[:, None], jnp.broadcast_to(row, C.shape))
        fine = jnp.bool_(True) if semiring.converges is None else semiring.converges(pivot)
        return _better(semiring, C, detour), (pivot, fine)

    C, (pivots, fine) = lax.scan(through, A, jnp.arange(n))
    return _better(semiring, C, eye(semiring, n, A.dtype)), pivots, fine


def _better(semiring: Operations, a: Array, b: Array) -> Array:
    """⊕; where that selects, the gradient goes to the one selected, ``a`` of equals."""
    both = semiring.add(a, b)
    return jnp.where(both == a, a, b) if semiring.selective else both


def star_of(semiring: Operations, a: Any) -> Array:
    """`Semiring.star_of`."""
    a = as_array(semiring, a, "a")
    check_closure_forms(semiring, a.dtype)
    if semiring.closure is not None:
        return semiring.closure(a)
    one = jnp.full(a.shape, semiring.one_of(a.dtype))
    if semiring.bounded:
        return one
    ends = jnp.bool_(True) if semiring.converges is None else semiring.converges(a)
    return jnp.where(ends, one, semiring.endless_of(a.dtype))


def eye(semiring: Operations, n: Any, dtype: Any) -> Array:
    """`Semiring.eye`."""
    n = whole(n, "n")
    if not 0 <= n <= MOST:
        raise StructureError(f"n is {show(n)}; a length from 0 to {MOST} was expected")
    dtype = check_held(semiring.check_dtype(dtype), "dtype")
    return jnp.where(jnp.eye(n, dtype=bool), semiring.one_of(dtype), semiring.zero_of(dtype))


def power(semiring: Operations, A: Any, exponent: int) -> Array:
    """`Semiring.power`."""
    exponent = whole(exponent, "exponent", "It says which products are made: no traced one")
    if not 0 <= exponent < 2**64:
        raise StructureError(f"exponent is {show(exponent)}; 0 to 2⁶⁴ − 1 was expected")
    return _power(semiring, _dense_square(semiring, A), exponent)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _power(semiring: Operations, A: Array, exponent: int) -> Array:
    if not exponent:
        return eye(semiring, A.shape[0], A.dtype)
    # The leading bit is A itself; each further one squares, and a set one multiplies.
    result = A
    for bit in bin(exponent)[3:]:
        result = dense.matmul(semiring, result, result)
        if bit == "1":
            result = dense.matmul(semiring, result, A)
    return result


def _dense_square(semiring: Operations, A: Any) -> Array:
    if isinstance(A, SparseMatrix):
        A = A.to_dense(semiring)
    A = as_array(semiring, A, "A")
    check_square(A)
    return A
