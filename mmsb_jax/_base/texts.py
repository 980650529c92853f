"""Texts that stand in logs: UTF-8, and whole numbers in decimal whatever Python allows itself."""

import re

from mmsb_jax._base.errors import StructureError

MAX_DIGITS = 4300
"""Digits of an integer that can be recorded: what Python reads and writes unless it is told."""

MAX_INTEGER = 10**MAX_DIGITS - 1

_PIECE = 600  # Python can be told to convert no more than 640 digits


def encoded(text: str, what: str) -> bytes:
    """``text`` as UTF-8; messages call it ``what``."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise StructureError(
            f"{what} {text[:80]!r} has half of a surrogate pair at {error.start}, which is no text "
            f"and cannot be recorded. Record the bytes (os.fsencode of a file's name) instead."
        ) from None


def to_decimal(number: int) -> str:
    """A whole number of at most `MAX_DIGITS` digits, in decimal."""
    rest, pieces = abs(number), []
    while rest >= 10**_PIECE:
        rest, piece = divmod(rest, 10**_PIECE)
        pieces.append(f"{piece:0{_PIECE}}")
    return f"{'-' if number < 0 else ''}{rest}{''.join(reversed(pieces))}"


def from_decimal(text: str) -> int:
    """The number that `to_decimal` wrote."""
    if not re.fullmatch(r"-?[0-9]+", text, re.ASCII) or len(text) > MAX_DIGITS + 1:
        raise ValueError(f"{text[:80]!r} is not a whole number of at most {MAX_DIGITS} digits")
    digits, number = text.removeprefix("-"), 0
    first = len(digits) % _PIECE
    for start in range(first - _PIECE if first else 0, len(digits), _PIECE):
        number = number * 10**_PIECE + int(digits[max(start, 0) : start + _PIECE])
    return -number if text.startswith("-") else number
