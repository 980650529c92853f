"""Which arguments of a jitted function are static.

JAX does not say so, but it refuses a static argument that cannot be hashed, and any other that is
no array, before it calls the function. So one of each kind tells.
"""

from collections.abc import Collection
from typing import Any

import jax
import numpy as np


class _Probe:
    """What can be neither a static argument nor an array."""

    __hash__ = None  # pyright: ignore[reportAssignmentType]


_OTHER = jax.ShapeDtypeStruct((), np.float32)


def static_arguments(
    function: Any, count: int, names: Collection[str]
) -> frozenset[int | str] | None:
    """Which of ``count`` arguments by position, and of those by keyword, are static.

    None where it cannot be told. The function is not called.
    """
    if not callable(getattr(function, "trace", None)):
        return None
    places: list[int | str] = [*range(count), *names]
    return frozenset(place for place in places if _is_static(function, count, names, place))


def _is_static(function: Any, count: int, names: Collection[str], place: int | str) -> bool:
    arguments: dict[int | str, Any] = dict.fromkeys([*range(count), *names], _OTHER)
    arguments[place] = _Probe()
    try:
        function.trace(
            *(arguments[i] for i in range(count)), **{name: arguments[name] for name in names}
        )
    except ValueError as error:
        return "hash" in str(error)
    except Exception:  # a TypeError: it is to be an array
        return False
    return False
