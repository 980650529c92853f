"""Names of dtypes: the words that stand in logs and layouts, without importing JAX."""

import functools

import ml_dtypes
import numpy as np


@functools.cache
def dtype_name(dtype: np.dtype) -> str:
    """The name that `parse_dtype` reads: ``float32``, ``bfloat16``, ``>f4``, ``<M8[ns]``."""
    if dtype.kind == "V" or hasattr(ml_dtypes, dtype.name):
        return dtype.name
    if dtype.isnative and dtype.kind in "biufc":
        return dtype.name
    return dtype.str


@functools.cache
def parse_dtype(name: str) -> np.dtype:
    """The dtype that `dtype_name` named."""
    custom = getattr(ml_dtypes, name, None)
    if isinstance(custom, type) and issubclass(custom, np.generic):
        return np.dtype(custom)
    try:
        dtype = np.dtype(name)
    except (TypeError, SyntaxError):
        raise ValueError(f"{name!r} is not the name of a dtype") from None
    if dtype.hasobject or dtype.names is not None or dtype.kind == "V":
        raise ValueError(f"{name!r} is not the name of a plain dtype")
    return dtype
