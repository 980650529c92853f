"""The product of two dense matrices in any semiring."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from mmsb_jax.algebra._values.operations import Operations
from mmsb_jax.kernels.varying import varying_as

# Terms that are folded into the result in one pass over it: more make the pass no cheaper.
_TERMS = 8


def matmul(semiring: Operations, A: Array, B: Array) -> Array:
    """``C[i, j] = ⊕ₖ A[i, k] ⊗ B[k, j]``; 0̄ where there is no k."""
    if semiring.product is not None:
        return semiring.product(A, B)
    if semiring.selective and jnp.issubdtype(A.dtype, jnp.floating):
        return _matmul_winner(semiring, A, B)
    return fold_terms(semiring.add, semiring.multiply, semiring.zero_of(A.dtype), A, B)


def fold_terms(add: Callable, multiply: Callable, zero: Any, A: Array, B: Array) -> Array:
    """Outer products ⊕-ed into the result, a few at a time."""
    inner = A.shape[1]
    columns, start = A.T, jnp.full((A.shape[0], B.shape[1]), zero, A.dtype)

    def terms(folded: Array, columns: Array, rows: Array) -> Array:
        for column, row in zip(columns, rows, strict=True):
            folded = add(folded, multiply(column[:, None], row[None, :]))
        return folded

    whole = inner // _TERMS

    def step(folded: Array, pair: Any) -> tuple[Array, None]:
        return terms(folded, *pair), None

    if whole:
        steps = tuple(
            side[: whole * _TERMS].reshape(whole, _TERMS, side.shape[1]) for side in (columns, B)
        )
        start, _ = lax.scan(step, varying_as(start, start, steps), steps)
    return terms(start, columns[whole * _TERMS :], B[whole * _TERMS :])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _matmul_winner(semiring: Operations, A: Array, B: Array) -> Array:
    return fold_terms(semiring.add, semiring.multiply, semiring.zero_of(A.dtype), A, B)


def _forward(semiring: Operations, A: Array, B: Array) -> tuple[Array, tuple]:
    C = fold_terms(semiring.add, semiring.multiply, semiring.zero_of(A.dtype), A, B)
    return C, (A, B, C)


def _backward(semiring: Operations, kept: tuple, gradient: Array) -> tuple[Array, Array]:
    """To the pair that won each place, the first of equals; to none where nothing arrived."""
    A, B, C = kept
    if not A.size or not B.size:
        return jnp.zeros_like(A), jnp.zeros_like(B)
    zero = semiring.zero_of(C.dtype)

    def step(winner: Array, k: Array) -> tuple[Array, None]:
        product = semiring.multiply(A[:, k][:, None], B[k][None, :])
        return jnp.where((winner < 0) & (product == C), k, winner), None

    inner = jnp.arange(A.shape[1], dtype=jnp.int32)
    winner, _ = lax.scan(step, jnp.full(C.shape, -1, jnp.int32), inner)
    found = (winner >= 0) & (zero != C)
    k = jnp.maximum(winner, 0)
    i, j = jnp.arange(C.shape[0])[:, None], jnp.arange(C.shape[1])[None, :]
    to_a, to_b = jax.vjp(semiring.multiply, A[i, k], B[k, j])[1](jnp.where(found, gradient, 0))
    a_bar = jnp.zeros_like(A).at[i, k].add(jnp.where(found, to_a, 0))
    b_bar = jnp.zeros_like(B).at[k, j].add(jnp.where(found, to_b, 0))
    return a_bar, b_bar


_matmul_winner.defvjp(_forward, _backward)


def lor_land_product(A: Array, B: Array) -> Array:
    """Whether any term of the sum is one: a product of the device, of zeros and ones."""
    # Sums of ones are never rounded to zero, however many they are.
    return jnp.matmul(A.astype(jnp.float32), B.astype(jnp.float32)) > 0


def plus_times_product(A: Array, B: Array) -> Array:
    """`jnp.matmul` at full precision."""
    return jnp.matmul(A, B, precision=lax.Precision.HIGHEST, preferred_element_type=A.dtype)


def log_product(A: Array, B: Array) -> Array:
    """``log Σₖ exp(A[i, k] + B[k, j])``, each place shifted by its largest term."""
    largest = fold_terms(jnp.maximum, jnp.add, -jnp.inf, *map(lax.stop_gradient, (A, B)))
    shift = jnp.where(jnp.isfinite(largest), largest, 0)

    def term(column: Array, row: Array) -> Array:
        return jnp.exp(column + row - shift)

    total = fold_terms(jnp.add, term, 0, A, B)
    empty = total == 0
    return jnp.where(empty, -jnp.inf, jnp.log(jnp.where(empty, 1, total)) + shift).astype(A.dtype)
