"""Numbers as values of a dtype: what fits is taken over, what does not is named and refused.

A number fits a dtype that has it. A float dtype rounds, as always; a finite number that would
become infinite does not fit. An integer dtype has whole numbers from end to end, and its ends for
the infinities; NaN it has not. bool has 0 and 1. A complex number fits a real dtype where its
imaginary part is 0.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from mmsb_jax._base.arguments import show
from mmsb_jax._base.errors import StructureError


def as_dtype(dtype: Any, name: str = "dtype") -> np.dtype:
    """``dtype`` as NumPy's, in the byte order of this machine.

    Raises:
        StructureError: it names no dtype; None does not either.
    """
    try:
        if dtype is None:
            raise TypeError
        found = np.dtype(dtype)
    except Exception:  # a TypeError most often; of an object, whatever it raises when shown
        raise StructureError(
            f'{name} is {described(dtype)}; a dtype was expected, such as "float32"'
        ) from None
    return found if found.isnative else found.newbyteorder("=")


def check_held(dtype: Any, name: str, instead: str = "give it as {}") -> np.dtype:
    """``dtype`` itself, where JAX has arrays of it under the present settings.

    Raises:
        StructureError: it has not. ``instead`` says what to do, with the name of a dtype in it.
    """
    dtype = as_dtype(dtype, f"the dtype of {name}")
    is_number = dtype.kind == "b" or (dtype.kind != "m" and jnp.issubdtype(dtype, np.number))
    if not is_number or dtype.itemsize > (16 if dtype.kind == "c" else 8):
        raise StructureError(f"{name} is {dtype}, which JAX does not have; numbers were expected")
    there = jax.dtypes.canonicalize_dtype(dtype)
    if there != dtype:
        raise StructureError(
            f"{name} is {dtype.name}, which JAX has only with jax_enable_x64; nothing is cast in "
            f"silence: {instead.format(there.name)}"
        )
    return dtype


def on_host(value: Any, name: str) -> np.ndarray:
    """``value`` as a NumPy array of numbers, of its own dtype in native byte order.

    Raises:
        StructureError: it is traced; it is no array of numbers.
    """
    try:
        array = _array_of(value)
    except jax.errors.TracerArrayConversionError:
        raise StructureError(
            f"{name} is traced, or a sequence of what is. An operand is one array (jnp.stack makes "
            f"one); what says which entries a matrix has is read on the host, outside of jit and "
            f"vmap, and SparseMatrix.with_data gives it traced values"
        ) from None
    except (TypeError, ValueError, OverflowError):
        raise StructureError(
            f"{name} is {described(value)}, of which no array can be made; numbers were expected"
        ) from None
    for item in array.flat if array.dtype.kind == "O" else ():
        if isinstance(item, int) and not -(2**63) <= item < 2**64:
            raise StructureError(f"{name} has {show(item)} in it, which takes over 64 bits")
    if array.dtype.kind in "OSUmM" or array.dtype.names is not None:
        raise StructureError(f"{name} is {described(value)}; numbers were expected")
    return array if array.dtype.isnative else array.astype(as_dtype(array.dtype))


def _array_of(value: Any) -> np.ndarray:
    if isinstance(value, (list, tuple)) and any(isinstance(item, jax.Array) for item in value):
        # NumPy finds no dtype for scalars of bfloat16 in a list.
        return np.stack([np.asarray(item) for item in value])
    return np.asarray(value)


def has_own_dtype(value: Any) -> bool:
    """Whether the dtype was chosen; Python's numbers, and sequences of any, take JAX's default."""
    is_python = isinstance(value, (bool, int, float, complex, list, tuple, range))
    return isinstance(value, np.generic) or not is_python


def fit(values: np.ndarray, dtype: np.dtype, name: str | Callable[..., str]) -> np.ndarray:
    """``values`` in another dtype, where it has all of them.

    Args:
        values: numbers on the host.
        dtype: of the result.
        name: of the values in errors, or a function that names one by its index.

    Raises:
        StructureError: the first value that does not fit, by its index.
    """
    if values.dtype == dtype:
        return values
    given, is_wrong = values, np.zeros(values.shape, bool)
    if values.dtype.kind == "c" and not jnp.issubdtype(dtype, np.complexfloating):
        given, is_wrong = np.real(values), np.imag(values) != 0
    with np.errstate(all="ignore"):
        if dtype.kind == "b":
            is_wrong, cast = is_wrong | ((given != 0) & (given != 1)), given != 0
        elif jnp.issubdtype(dtype, np.integer):
            cast, does_fit = _to_integers(given, dtype)
            is_wrong |= ~does_fit
        else:
            cast = given.astype(dtype)
            is_wrong |= (np.isinf(cast) != np.isinf(given)) | (np.isnan(cast) != np.isnan(given))
    if is_wrong.any():
        where = tuple(int(i) for i in np.argwhere(is_wrong)[0])
        if callable(name):
            name = name(*where)
        elif where:
            name = f"{name}[{', '.join(map(str, where))}]"
        raise StructureError(
            f"{name} is {values[where]}, which {dtype.name} does not have; {_extent(dtype)} "
            f"expected. Choose another dtype, or change the value first"
        )
    return cast


def _to_integers(given: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """The integers of these values, and which of them are some."""
    ends = jnp.iinfo(dtype)
    low, high = int(ends.min), int(ends.max)
    if given.dtype.kind == "b":
        return given.astype(dtype), np.ones(given.shape, bool)
    if jnp.issubdtype(given.dtype, np.integer):
        wide = given if given.dtype.kind in "iu" else given.astype(np.int64)
        return wide.astype(dtype), (wide >= low) & (wide <= high)
    wide = given.astype(np.promote_types(given.dtype, np.float64))
    # The end itself may be no float; one beyond it is a power of two.
    is_whole = (wide >= low) & (wide < high + 1) & (wide == np.trunc(wide))
    cast = np.where(is_whole, wide, 0).astype(dtype)
    cast = np.where(wide == np.inf, dtype.type(high), cast)
    cast = np.where(wide == -np.inf, dtype.type(low), cast)
    return cast.astype(dtype), is_whole | np.isinf(wide)


def _extent(dtype: np.dtype) -> str:
    if dtype.kind == "b":
        return "False and True, or 0 and 1, were"
    if jnp.issubdtype(dtype, np.integer):
        ends = jnp.iinfo(dtype)
        return f"whole numbers from {ends.min} to {ends.max}, or ±inf for these ends, were"
    kind = "numbers" if jnp.issubdtype(dtype, np.complexfloating) else "real numbers"
    return f"{kind} up to ±{float(jnp.finfo(dtype).max):.4g}, or ±inf, were"


def described(value: Any) -> str:
    """What arrived, in few words: the dtype and shape of an array, else its value and type."""
    if isinstance(value, (np.ndarray, jax.Array)) and value.shape:
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, Tracer):
        return f"a traced {value.dtype}[]"
    return f"{show(value)} ({type(value).__name__})"
