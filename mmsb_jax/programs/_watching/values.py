"""Static values as texts that give nothing away: numbers and names, and of all else its type."""

import enum
import math
import types
import weakref
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np

from mmsb_jax._base.arguments import show
from mmsb_jax._display.text import printable

MOST_SHOWN = 80
"""Characters of a value, and of a path, that are kept."""

_MOST_ITEMS = 8
_NUMPY_NUMBERS = np.number | np.bool_
_FUNCTIONS = types.FunctionType | types.BuiltinFunctionType | types.MethodType


class WeakValue:
    """A value to be compared, which is not kept alive; what is gone differs from nothing."""

    def __init__(self, value: Any) -> None:
        self._ref = weakref.ref(value)

    def __eq__(self, other: object) -> bool:
        one, two = self._ref(), other._ref() if isinstance(other, WeakValue) else None
        return one is None or two is None or one is two or bool(one == two)

    def __hash__(self) -> int:
        return 0


class StaticValue(NamedTuple):
    """What is kept of a static value: two are one program's where these are equal.

    Attributes:
        text: to be shown.
        kind: its type.
        hash: its hash; None where it has none.
        is_by_identity: whether only the same object is equal to it.
        weak: the value, which tells where two hashes are equal by chance, as those of -1 and -2
            are; None where there can be no weak reference.
    """

    text: str
    kind: type
    hash: int | None
    is_by_identity: bool
    weak: WeakValue | None


def static_value(value: Any, show_values: bool) -> StaticValue:
    """What is kept of ``value``; its repr too, if ``show_values``."""
    text = show(value, MOST_SHOWN) if show_values else safe_text(value)
    kind = type(value)
    is_by_identity = value is not None and (
        kind.__hash__ is object.__hash__ or isinstance(value, _FUNCTIONS)
    )
    found = _hash_of(value)
    weak = None if found is None else _weak(value)
    return StaticValue(printable(text), kind, found, is_by_identity, weak)


def safe_text(value: Any) -> str:
    """A number, a name, or what type it is: nothing that could be a secret, no code of the user's.

    >>> safe_text(3), safe_text("hunter2"), safe_text((1, None))
    ('3', 'a str of 7 characters', '(1, None)')
    """
    if isinstance(value, enum.Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if value is None or _is_number(value):
        return "a large int" if _is_large(value) else str(value)
    if isinstance(value, np.dtype):
        return value.name
    if isinstance(value, type | _FUNCTIONS):
        return cut(str(getattr(value, "__qualname__", type(value).__qualname__)))
    if type(value) is tuple and len(value) <= _MOST_ITEMS:
        return cut(f"({', '.join(map(safe_text, value))}{',' * (len(value) == 1)})")
    if type(value) in (str, bytes):
        unit = "characters" if isinstance(value, str) else "bytes"
        return f"a {type(value).__name__} of {len(value):,} {unit}"
    return cut(f"a {type(value).__qualname__}")


def cut(text: str) -> str:
    """``text``, or its beginning."""
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def cut_middle(text: str, most: int = MOST_SHOWN) -> str:
    """``text``, or its beginning and its end, where a path says most."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most // 2) :]}"


def _is_number(value: Any) -> bool:
    return type(value) in (bool, int, float, complex) or isinstance(value, _NUMPY_NUMBERS)


def _is_large(value: Any) -> bool:
    return type(value) is int and value != 0 and math.log2(abs(value)) > 200


def _weak(value: Any) -> WeakValue | None:
    try:
        return WeakValue(value)
    except TypeError:  # numbers, strings and tuples have none
        return None


def _hash_of(value: Any) -> int | None:
    if not isinstance(value, Hashable):
        return None
    try:
        return hash(value)
    except Exception:  # a tuple of lists; whatever the user's own raises
        return None
