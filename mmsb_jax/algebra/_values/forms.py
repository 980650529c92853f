"""Whether the functions of a semiring keep shape and dtype."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmsb_jax._base.errors import MMSBError, StructureError
from mmsb_jax.algebra._values.operations import Operations


def check_forms(semiring: Operations, dtype: np.dtype) -> None:
    """Raise where an operation gives another shape or dtype than it was given, or fails.

    Raises:
        StructureError: the message names the operation.
    """
    _check_forms(semiring, dtype, _has_wide(), ("add", "multiply", "reduce", "product"))


def check_closure_forms(semiring: Operations, dtype: np.dtype) -> None:
    """`check_forms` for what `Semiring.star` needs beside the operations."""
    _check_forms(semiring, dtype, _has_wide(), ("converges", "closure"))


def _has_wide() -> bool:
    # What jnp.sum gives of an int32 depends on it, and so what is kept below.
    return jax.dtypes.canonicalize_dtype(np.int64) == np.int64


@functools.lru_cache(maxsize=256)
def _check_forms(
    semiring: Operations, dtype: np.dtype, has_wide: bool, names: tuple[str, ...]
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
