"""The laws of a semiring, tried on values."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mmsb_jax._base.errors import MMSBError, StructureError
from mmsb_jax.algebra._values.casting import check_held
from mmsb_jax.algebra._values.operands import uncast
from mmsb_jax.algebra._values.operations import Operations


class LawError(MMSBError, ValueError):
    """A semiring that breaks a law or a flag of its own; the message has the counterexample."""


@dataclass(frozen=True)
class Law:
    """Two ways to say the same of some values.

    Attributes:
        name: what it says.
        values: how many values it speaks of.
        sides: the two sides, as a function of the semiring and the values.
        is_exact: whether floats too must be equal to the bit.
    """

    name: str
    values: int
    sides: Callable[..., tuple[Array, Array]]
    is_exact: bool = False


def laws(semiring: Operations) -> Iterator[Law]:
    """Every law that a semiring with these flags must keep."""
    add, multiply = semiring.add, semiring.multiply

    def zero(a: Array) -> Array:
        return jnp.full(a.shape, semiring.zero_of(a.dtype))

    def one(a: Array) -> Array:
        return jnp.full(a.shape, semiring.one_of(a.dtype))

    yield Law("⊕ is commutative", 2, lambda a, b: (add(a, b), add(b, a)))
    yield Law("⊕ is associative", 3, lambda a, b, c: (add(add(a, b), c), add(a, add(b, c))))
    yield Law("0̄ ⊕ a is a", 1, lambda a: (add(zero(a), a), a))
    yield Law(
        "⊗ is associative",
        3,
        lambda a, b, c: (multiply(multiply(a, b), c), multiply(a, multiply(b, c))),
    )
    yield Law("1̄ ⊗ a is a", 1, lambda a: (multiply(one(a), a), a))
    yield Law("a ⊗ 1̄ is a", 1, lambda a: (multiply(a, one(a)), a))
    yield Law("0̄ ⊗ a is 0̄", 1, lambda a: (multiply(zero(a), a), zero(a)), is_exact=True)
    yield Law("a ⊗ 0̄ is 0̄", 1, lambda a: (multiply(a, zero(a)), zero(a)), is_exact=True)
    yield Law(
        "⊗ distributes over ⊕ from the left",
        3,
        lambda a, b, c: (multiply(a, add(b, c)), add(multiply(a, b), multiply(a, c))),
    )
    yield Law(
        "⊗ distributes over ⊕ from the right",
        3,
        lambda a, b, c: (multiply(add(a, b), c), add(multiply(a, c), multiply(b, c))),
    )
    if semiring.commutative:
        yield Law("commutative: ⊗ is", 2, lambda a, b: (multiply(a, b), multiply(b, a)))
    if semiring.idempotent:
        yield Law("idempotent: a ⊕ a is a", 1, lambda a: (add(a, a), a), is_exact=True)
    if semiring.selective:
        yield Law(
            "selective: a ⊕ b is a or b",
            2,
            lambda a, b: (add(a, b), jnp.where(add(a, b) == a, a, b)),
            is_exact=True,
        )
    if semiring.bounded:
        yield Law("bounded: 1̄ ⊕ a is 1̄", 1, lambda a: (add(one(a), a), one(a)), is_exact=True)
    if semiring.reduce is not None:
        reduce = semiring.reduce
        yield Law(
            "reduce is ⊕",
            3,
            lambda a, b, c: (reduce(jnp.stack([a, b, c]), 0), add(add(a, b), c)),
        )
    if semiring.product is not None:
        product = semiring.product
        yield Law(
            "product is ⊗ and ⊕",
            3,
            lambda a, b, c: (
                jax.vmap(product)(jnp.stack([a, b], -1)[:, None], jnp.stack([b, c], -1)[..., None])[
                    :, 0, 0
                ],
                add(multiply(a, b), multiply(b, c)),
            ),
        )


def check(semiring: Operations, dtype: Any, values: Any) -> None:
    """`Semiring.check`."""
    if dtype is None and values is not None:
        dtype = uncast(values, "values").dtype
    if dtype is None:
        known = [name for name in semiring.dtypes if jax.dtypes.canonicalize_dtype(name) == name]
    else:
        known = [semiring.check_dtype(check_held(dtype, "dtype")).name]
    for name in known:
        tried = usual_values(semiring, name) if values is None else uncast(values, "values")
        if tried.dtype != name or tried.ndim != 1:
            raise StructureError(
                f"values is {tried.dtype.name}{list(tried.shape)}; a vector of {name} was expected"
            )
        _try(semiring, tried)


def _try(semiring: Operations, values: Array) -> None:
    """Raise where a law does not hold for some triple of ``values``."""
    known = list(laws(semiring))
    triples = [side.reshape(-1) for side in jnp.meshgrid(*[values] * 3, indexing="ij")]
    all_sides = jax.jit(lambda *args: [law.sides(*args[: law.values]) for law in known])
    for law, sides in zip(known, all_sides(*triples), strict=True):
        _compare(semiring, law, triples[: law.values], *sides)


def _compare(semiring: Operations, law: Law, args: list[Array], left: Array, right: Array) -> None:
    """Raise where the two sides of a law differ."""
    dtype = args[0].dtype
    if left.dtype != dtype or right.dtype != dtype:
        changed = left.dtype if left.dtype != dtype else right.dtype
        raise LawError(
            f"{semiring.name}, {dtype.name}: {law.name} fails: an operation gives {changed.name}, "
            f"not {dtype.name}"
        )
    wrong = ~agree(left, right, args, law.is_exact)
    if wrong.any():
        where = int(np.flatnonzero(wrong)[0])
        given = ", ".join(
            f"{letter} = {np.asarray(arg)[where]}" for letter, arg in zip("abc", args, strict=False)
        )
        raise LawError(
            f"{semiring.name}, {dtype.name}: {law.name} fails for {given}: one side is "
            f"{np.asarray(left)[where]}, the other {np.asarray(right)[where]}"
        )


def agree(left: Array, right: Array, args: list[Array], is_exact: bool = False) -> np.ndarray:
    """Where both sides are equal: to the bit, or for floats to rounding of what went in."""
    dtype = left.dtype
    equal = np.asarray(left == right)
    if is_exact or not jnp.issubdtype(dtype, jnp.floating):
        return equal
    wide = [np.asarray(value).astype(np.float64) for value in (left, right, *args)]
    with np.errstate(invalid="ignore"):
        size = np.max([np.where(np.isfinite(value), np.abs(value), 0) for value in wide], axis=0)
        near = np.abs(wide[0] - wide[1]) <= 16 * float(jnp.finfo(dtype).eps) * (size + 1)
    return equal | near


def usual_values(semiring: Operations, dtype: Any) -> Array:
    """Small numbers, numbers whose sums saturate only for the infinities, and both infinities."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        tried = np.array([False, True])
    elif dtype.kind in "iu":
        ends = np.iinfo(dtype)
        inside = [-7, -2, -1, 0, 1, 2, 3, 5, ends.max // 4, ends.min // 4, ends.min, ends.max]
        tried = np.array(sorted({x for x in inside if ends.min <= x <= ends.max}), dtype)
    else:
        inside = [-np.inf, -7.5, -2, -1, -0.375, -0.0, 0.25, 0.5, 1, 2, 3.25, 20, np.inf]
        tried = np.array(inside).astype(dtype)
    known = jnp.asarray(tried)
    if semiring.contains is not None:
        known = known[np.asarray(semiring.contains(known))]
    constants = [np.asarray(semiring.zero_of(dtype)), np.asarray(semiring.one_of(dtype))]
    return jnp.concatenate([known, jnp.asarray(np.array(constants, dtype))])
