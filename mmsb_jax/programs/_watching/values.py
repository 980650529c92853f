"""Static values as texts that give nothing away: numbers and names, and of all else its type."""

import enum
import math
import types
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np

from mmsb_jax._base.arguments import show
from mmsb_jax._display.text import printable

MOST_SHOWN = 80
"""Characters of a value, and of a path, that are kept."""

_MOST_ITEMS = 8
_FUNCTIONS = types.FunctionType | types.BuiltinFunctionType | types.MethodType


class StaticValue(NamedTuple):
    """What is kept of a static value: two are one program's where these are equal.

    Attributes:
        text: to be shown.
        kind: its type.
        hash: its hash; None where it has none.
        is_by_identity: whether only the same object is equal to it.
    """

    text: str
    kind: type
    hash: int | None
    is_by_identity: bool


def static_value(value: Any, show_values: bool) -> StaticValue:
    """What is kept of ``value``; its repr too, if ``show_values``."""
    text = show(value, MOST_SHOWN) if show_values else safe_text(value)
    kind = type(value)
    is_by_identity = value is not None and (
        kind.__hash__ is object.__hash__ or isinstance(value, _FUNCTIONS)
    )
    return StaticValue(printable(text), kind, _hash_of(value), is_by_identity)


def safe_text(value: Any) -> str:
    """A number, a name, or what type it is: nothing that could be a secret, no code of the user's.

    >>> safe_text(3), safe_text("hunter2"), safe_text((1, None))
    ('3', 'a str of 7 characters', '(1, None)')
    """
    if isinstance(value, enum.Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if value is None or type(value) in (bool, int, float, complex) or isinstance(value, np.generic):
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


def _is_large(value: Any) -> bool:
    return type(value) is int and value != 0 and math.log2(abs(value)) > 200


def _hash_of(value: Any) -> int | None:
    if not isinstance(value, Hashable):
        return None
    try:
        return hash(value)
    except Exception:  # a tuple of lists; whatever the user's own raises
        return None
