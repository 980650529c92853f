"""Arguments: what a caller passed, checked where it comes in and shown in messages."""

import operator
import os
from typing import Any

import numpy as np

from mmsb_jax._base.errors import LocationError, VersionError

MOST = 2**31 - 1
"""What a length of JAX, or a number of a row, is at most."""


def show(value: object, most: int = 80) -> str:
    """``value`` in a message: what it says of itself, cut; its type where it can say nothing."""
    try:
        text = repr(value)
    except Exception:  # its own fault; an integer has more digits than Python shows
        text = f"<{type(value).__qualname__}>"
    return text if len(text) <= most else f"{text[:most]}…"


def check_choice(name: str, value: Any, *choices: str) -> None:
    """Refuse what is none of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}={show(value)}: expected {' or '.join(map(repr, choices))}")


def check_flag(name: str, value: Any) -> None:
    """Refuse what is neither True nor False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}={show(value)}: expected True or False")


def check_text(name: str, value: Any, what: str) -> None:
    """Refuse what is no string; it is to be ``what``."""
    if not isinstance(value, str):
        raise TypeError(f"{name}={show(value)}: expected {what}, a string")


def check_function(name: str, value: Any) -> None:
    """Refuse what cannot be called; None is no function, and fine."""
    if value is not None and not callable(value):
        raise TypeError(f"{name}={show(value)}: expected a function, or None")


def check_kind(name: str, value: Any, kind: type, remedy: str = "") -> None:
    """Refuse what is no ``kind``."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}={show(value)}: expected a {kind.__name__}{remedy}")


def is_integer(value: Any) -> bool:
    """Whether ``value`` is an integer of Python or NumPy; True is none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_size(name: str, value: Any) -> None:
    """Refuse what is no length of an axis."""
    if not is_integer(value):
        raise TypeError(f"{name}={show(value)}: expected an integer")
    if not 0 <= value <= MOST:
        raise ValueError(f"{name}={show(value)}: expected 0 to {MOST}")


def path_text(name: str, value: Any) -> str:
    """A path as text."""
    if not isinstance(value, str | os.PathLike) or not isinstance(text := os.fspath(value), str):
        raise TypeError(
            f"{name}={show(value)}: expected a path as a string or a Path. "
            f"Use os.fsdecode for bytes."
        )
    try:
        os.fsencode(text)
        fault = "" if text else "is no path"
    except UnicodeEncodeError:
        fault = "has half of a surrogate pair, which no path can"
    if "\0" in text:
        fault = "holds a zero character, which no path can"
    if fault:
        raise LocationError(f"{name}={show(text)} {fault}. Give the path of a file or directory.")
    return text


def check_number(name: str, value: Any) -> None:
    """Refuse what is no version, step or time."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name}={show(value)}: expected an integer")
    if number < 0:
        raise VersionError(
            f"{name}={show(value)} is negative; versions, steps and times count from 0"
        )
