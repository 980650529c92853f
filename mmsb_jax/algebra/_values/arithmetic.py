"""Operations of the instances, with infinities decided and integers that saturate.

Each is elementwise on two arrays of one dtype. In a *tropical* sum one infinity is 0̄ and wins
over everything, the other included: ∞ + (−∞) is 0̄. Integers have their ends as infinities; a sum
that passes an end becomes that end.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from mmsb_jax._base.errors import StructureError


def highest(dtype: np.dtype) -> float | int:
    """+∞ of a dtype: the end of an integer."""
    return np.iinfo(dtype).max if dtype.kind in "iu" else np.inf


def lowest(dtype: np.dtype) -> float | int:
    """−∞ of a dtype: the end of an integer, 0 of an unsigned one."""
    return np.iinfo(dtype).min if dtype.kind in "iu" else -np.inf


def min_plus_multiply(a: Array, b: Array) -> Array:
    """a + b; +∞ wins over −∞."""
    top = jnp.asarray(highest(a.dtype), a.dtype)
    return jnp.where((a == top) | (b == top), top, _plus(a, b))


def max_plus_multiply(a: Array, b: Array) -> Array:
    """a + b; −∞ wins over +∞."""
    bottom = jnp.asarray(lowest(a.dtype), a.dtype)
    return jnp.where((a == bottom) | (b == bottom), bottom, _plus(a, b))


def _plus(a: Array, b: Array) -> Array:
    if jnp.issubdtype(a.dtype, jnp.floating):
        return a + b
    top, bottom = (jnp.asarray(end(a.dtype), a.dtype) for end in (highest, lowest))
    total = a + b
    if jnp.issubdtype(a.dtype, jnp.unsignedinteger):
        return jnp.where(total < a, top, total)
    overflown = ((a ^ total) & (b ^ total)) < 0
    total = jnp.where(overflown, jnp.where(a < 0, bottom, top), total)
    # An infinity stays one, whatever finite is added.
    total = jnp.where((a == bottom) | (b == bottom), bottom, total)
    return jnp.where((a == top) | (b == top), top, total)


def max_times_multiply(a: Array, b: Array) -> Array:
    """a · b of values that are not negative; 0 wins over +∞."""
    nothing = (a == 0) | (b == 0)
    if jnp.issubdtype(a.dtype, jnp.floating):
        return jnp.where(nothing, jnp.zeros_like(a), a * b)
    top = jnp.asarray(highest(a.dtype), a.dtype)
    passes = a > lax.div(top, jnp.maximum(b, 1))
    return jnp.where(passes & ~nothing, top, a * b)


def saturating_plus(a: Array, b: Array) -> Array:
    """a + b of unsigned integers; the end of the dtype where that passes it."""
    return _plus(a, b)


def sum_along(xs: Array, axis: int) -> Array:
    """The sum, in the dtype of ``xs``; integers wrap."""
    return jnp.sum(xs, axis=axis, dtype=xs.dtype)


def log_add(a: Array, b: Array) -> Array:
    """log(eᵃ + eᵇ), with a derivative that is 0 and not NaN where both are −∞."""
    return log_sum_along(jnp.stack([a, b]), 0)


def log_sum_along(xs: Array, axis: int) -> Array:
    """log Σ eˣ along an axis; −∞ of none, and where all are −∞."""
    largest = lax.stop_gradient(jnp.max(xs, axis=axis, keepdims=True))
    shift = jnp.where(jnp.isfinite(largest), largest, 0)
    total = jnp.sum(jnp.exp(xs - shift), axis=axis, dtype=xs.dtype)
    empty = total == 0
    result = jnp.log(jnp.where(empty, 1, total)) + jnp.squeeze(shift, axis)
    return jnp.where(empty, -jnp.inf, result).astype(xs.dtype)


def plus_times_closure(a: Array) -> Array:
    """1 / (1 − a), the sum of the geometric series; NaN where that has none."""
    if not jnp.issubdtype(a.dtype, jnp.floating):
        raise StructureError(
            f"the closure of plus_times is 1 / (1 - a), which {a.dtype.name} does not have; cast "
            f"the matrix to a float dtype"
        )
    inside = jnp.abs(a) < 1
    return jnp.where(inside, 1 / (1 - jnp.where(inside, a, 0)), jnp.nan).astype(a.dtype)


def log_closure(a: Array) -> Array:
    """−log(1 − eᵃ); +∞ where the series has no sum."""
    inside = a < 0
    return jnp.where(inside, -jnp.log1p(-jnp.exp(jnp.where(inside, a, -1))), jnp.inf).astype(
        a.dtype
    )


def not_negative(a: Array) -> Array:
    """a ≥ 0, and no NaN."""
    return a >= 0


def not_positive(a: Array) -> Array:
    """a ≤ 0, and no NaN."""
    return a <= 0


def at_most_one(a: Array) -> Array:
    """a ≤ 1."""
    return a <= 1


def within_one(a: Array) -> Array:
    """|a| < 1."""
    return jnp.abs(a) < 1


def negative(a: Array) -> Array:
    """a < 0."""
    return a < 0


def finite(a: Array) -> Array:
    """Neither infinite nor NaN."""
    return jnp.isfinite(a)


def below_infinity(a: Array) -> Array:
    """Neither +∞ nor NaN."""
    return a < jnp.inf
