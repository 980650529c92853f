"""What a semiring is made of: arguments of the right kind, functions that keep shape and dtype."""

import functools
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from mmsb_jax._arguments import show
from mmsb_jax._errors import MMSBError, StructureError
from mmsb_jax.algebra._casting import as_dtype, described

if TYPE_CHECKING:
    from mmsb_jax.algebra._semiring import Semiring


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


def check_fields(semiring: "Semiring") -> None:
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


def check_forms(semiring: "Semiring", dtype: np.dtype) -> None:
    """Raise where an operation gives another shape or dtype than it was given, or fails.

    Raises:
        StructureError: the message names the operation.
    """
    _check_forms(semiring, dtype, _has_wide(), ("add", "multiply", "reduce", "product"))


def check_closure_forms(semiring: "Semiring", dtype: np.dtype) -> None:
    """`check_forms` for what `Semiring.star` needs beside the operations."""
    _check_forms(semiring, dtype, _has_wide(), ("converges", "closure"))


def _has_wide() -> bool:
    # What jnp.sum gives of an int32 depends on it, and so what is kept below.
    return jax.dtypes.canonicalize_dtype(np.int64) == np.int64


@functools.lru_cache(maxsize=256)
def _check_forms(
    semiring: "Semiring", dtype: np.dtype, has_wide: bool, names: tuple[str, ...]
) -> None:
    vector, square = (jax.ShapeDtypeStruct(shape, dtype) for shape in ((2,), (2, 2)))
    flags = jax.ShapeDtypeStruct((2,), bool)
    operands: dict[str, tuple[tuple, Any]] = {
        "add": ((vector, vector), vector),
        "multiply": ((vector, vector), vector),
        "reduce": ((square,), vector),
        "product": ((square, square), square),
        "converges": ((vector,), flags),
        "closure": ((vector,), vector),
    }
    for name in names:
        function = getattr(semiring, name)
        if function is None:
            continue
        given, expected = operands[name]
        shown = " and ".join(map(_shown, given))
        try:
            rest = (0,) if name == "reduce" else ()
            found = jax.eval_shape(lambda *xs, f=function, rest=rest: f(*xs, *rest), *given)
        except MMSBError:
            raise
        except Exception as error:
            first = str(error).partition("\n")[0]
            raise StructureError(
                f"{semiring.name}: {name} of {shown} fails with {type(error).__name__}: {first}. A "
                f"function of jax.numpy that gives {_shown(expected)} was expected"
            ) from error
        if not (
            isinstance(found, jax.ShapeDtypeStruct)
            and found.shape == expected.shape
            and found.dtype == expected.dtype
        ):
            raise StructureError(
                f"{semiring.name}: {name} of {shown} gives {_shown(found)}; {_shown(expected)} was "
                f"expected"
            )


def _shown(value: Any) -> str:
    if isinstance(value, jax.ShapeDtypeStruct):
        return f"{jnp.dtype(value.dtype).name}{list(value.shape)}"
    return f"a {type(value).__name__}"
