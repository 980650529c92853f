"""The operations of a semiring, as data: what all that computes with one is given."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mmsb_jax._base.arguments import show
from mmsb_jax._base.errors import StructureError
from mmsb_jax.algebra._values.casting import as_dtype, described, fit, on_host

BOOL = ("bool",)
SIGNED = ("int8", "int16", "int32", "int64")
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
FLOATS = ("float16", "bfloat16", "float32", "float64")

Operation = Callable[[Array, Array], Array]
Constant = Callable[[np.dtype], Any] | bool | int | float


@dataclass(frozen=True)
class Operations:
    """Two operations with their identities, and what is known of them; see `Semiring`."""

    name: str
    add: Operation
    multiply: Operation
    zero: Constant
    one: Constant
    dtypes: tuple[str, ...] = SIGNED + UNSIGNED + FLOATS
    idempotent: bool = False
    selective: bool = False
    commutative: bool = True
    bounded: bool = False
    reduce: Callable[[Array, int], Array] | None = None
    product: Operation | None = None
    contains: Callable[[Array], Array] | None = None
    converges: Callable[[Array], Array] | None = None
    endless: Constant | None = None
    closure: Callable[[Array], Array] | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    def zero_of(self, dtype: Any) -> Any:
        """0̄ as a scalar of this dtype: what ⊕ ignores and ⊗ is stopped by.

        Raises:
            StructureError: the semiring is not defined on this dtype.

        Example:
            >>> from mmsb_jax import algebra
            >>> algebra.min_plus.zero_of("int32")
            np.int32(2147483647)
        """
        return self._constant("zero", dtype)

    def one_of(self, dtype: Any) -> Any:
        """1̄ as a scalar of this dtype: what ⊗ ignores.

        Raises:
            StructureError: the semiring is not defined on this dtype.

        Example:
            >>> from mmsb_jax import algebra
            >>> algebra.min_plus.one_of("float32")
            np.float32(0.0)
        """
        return self._constant("one", dtype)

    def endless_of(self, dtype: Any) -> Any:
        """The marker of what gets better without end, as a scalar of this dtype.

        Raises:
            StructureError: there is none; the semiring is not defined on this dtype.

        Example:
            >>> from mmsb_jax import algebra
            >>> algebra.min_plus.endless_of("float32")
            np.float32(-inf)
        """
        if self.endless is None:
            raise StructureError(
                f"{self.name} is not bounded and has no endless=, the value of a path that gets "
                f"better each time round a cycle; give it one, or bounded=True where 1̄ ⊕ a is 1̄"
            )
        return self._constant("endless", dtype)

    def _constant(self, which: str, dtype: Any) -> Any:
        dtype, value = self.check_dtype(dtype), getattr(self, which)
        name = f"{which} of {self.name}"
        with jax.ensure_compile_time_eval():
            number = on_host(value(dtype) if callable(value) else value, name)
        if number.shape:
            raise StructureError(f"{name} is {described(number)}; one number was expected")
        return fit(number, dtype, name)[()]

    def check_dtype(self, dtype: Any) -> np.dtype:
        """``dtype`` itself, where the semiring is defined on it.

        Raises:
            StructureError: it is not.

        Example:
            >>> from mmsb_jax import algebra
            >>> algebra.lor_land.check_dtype(bool)
            dtype('bool')
        """
        dtype = as_dtype(dtype)
        if dtype.name not in self.dtypes:
            raise StructureError(
                f"{self.name} is not defined on {dtype.name}; it is on {', '.join(self.dtypes)}"
            )
        return dtype


def _is_constant(value: Any) -> bool:
    return callable(value) or isinstance(value, (bool, int, float, complex, np.generic))


def _is_names(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(name, str) for name in value)


_Test = tuple[Callable[[Any], bool], str]
_FUNCTION: _Test = (callable, "a function of two arrays")
_CONSTANT: _Test = (_is_constant, "a number or a function of the dtype")
_FLAG: _Test = (lambda value: isinstance(value, bool), "True or False")
_OPTION: _Test = (lambda value: value is None or callable(value), "a function or None")
_FIELDS: dict[str, _Test] = {
    "name": (lambda value: isinstance(value, str), "a str"),
    "dtypes": (_is_names, 'a tuple of the names of dtypes, such as ("float32",),'),
    "endless": (lambda value: value is None or _is_constant(value), f"{_CONSTANT[1]}, or None,"),
    **dict.fromkeys(("add", "multiply"), _FUNCTION),
    **dict.fromkeys(("zero", "one"), _CONSTANT),
    **dict.fromkeys(("idempotent", "selective", "commutative", "bounded"), _FLAG),
    **dict.fromkeys(("reduce", "product", "contains", "converges", "closure"), _OPTION),
}


def check_fields(semiring: Operations) -> None:
    """Raise where an argument of a semiring is of another kind.

    Raises:
        StructureError: the message names the argument.
    """
    for field in fields(semiring):
        value = getattr(semiring, field.name)
        is_right, expected = _FIELDS[field.name]
        if not is_right(value):
            raise StructureError(
                f"{field.name}= of the semiring {show(semiring.name)} is {described(value)}; "
                f"{expected} was expected"
            )
    for dtype in semiring.dtypes:
        as_dtype(dtype, f"a dtype of the semiring {semiring.name!r}")
    try:
        hash(semiring)
    except TypeError:
        raise StructureError(
            f"the semiring {semiring.name!r} has no hash, which jax.jit finds its programs by; "
            f"functions that have one were expected"
        ) from None


def fold(semiring: Operations, xs: Array, axis: int) -> Array:
    """⊕ along one axis."""
    zero = semiring.zero_of(xs.dtype)
    if semiring.reduce is None or not xs.shape[axis]:
        return tree(semiring.add, zero, xs, axis)
    return semiring.reduce(xs, axis)


def tree(operation: Operation, identity: Any, xs: Array, axis: int) -> Array:
    """``xs`` halved along ``axis`` until one is left; neighbours meet, so order is kept."""
    xs = jnp.moveaxis(xs, axis, 0)
    if not xs.shape[0]:
        return jnp.full(xs.shape[1:], identity)
    while (length := xs.shape[0]) > 1:
        even = length & ~1
        paired = operation(xs[0:even:2], xs[1:even:2])
        xs = paired if even == length else jnp.concatenate([paired, xs[even:]])
    return xs[0]
