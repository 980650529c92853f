"""Limits on what is written: what could not be read back is refused before it is on a disk.

The limits themselves stand beside what they limit; docs/format.md has the table.
"""

import operator
from typing import Any

from mmsb_jax._base.errors import StructureError

U32, U64 = (1 << 32) - 1, (1 << 64) - 1
I64 = (1 << 63) - 1
HASH_BYTES = 16


def check_number(what: str, value: Any, least: int, most: int) -> None:
    """Refuse what is no whole number from ``least`` to ``most``.

    Raises:
        StructureError: it is not.
    """
    try:
        is_within = least <= operator.index(value) <= most
    except TypeError:
        is_within = False
    if not is_within:
        raise StructureError(
            f"{what} {value!r:.80} cannot be recorded: expected a whole number from {least} to "
            f"{most}"
        )


def check_text(what: str, text: Any, most_bytes: int) -> None:
    """Refuse what is no text of at most ``most_bytes`` bytes of UTF-8.

    Raises:
        StructureError: it is not.
    """
    if not isinstance(text, str):
        raise StructureError(f"{what} {text!r:.80} cannot be recorded: expected a string")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise StructureError(
            f"{what} {text!r:.80} cannot be recorded: it has half of a character (a lone "
            f"surrogate), which no UTF-8 has. Decode the bytes that it came from otherwise."
        ) from None
    if size > most_bytes:
        raise StructureError(
            f"{what} of {size:,} bytes, {text[:80]!r}…, cannot be recorded: at most "
            f"{most_bytes:,} bytes. Shorten it."
        )


def check_hash(what: str, raw: Any) -> None:
    """Refuse what is not the 16 bytes of an id, a chain or a hash.

    Raises:
        StructureError: it is not.
    """
    if not isinstance(raw, bytes) or len(raw) != HASH_BYTES:
        raise StructureError(f"{what} {raw!r:.80} cannot be recorded: expected {HASH_BYTES} bytes")
